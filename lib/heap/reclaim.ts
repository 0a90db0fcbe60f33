/**
 * Gives memory that nobody uses back to the kernel: pages that were written and lie in free blocks. A
 * released page reads as zeroes, so it also needs none when it is allocated again.
 *
 * A *hand* goes round the heap, as that of the CLOCK algorithm does (Corbató, 1968). A page that it finds
 * in a free block becomes *idle*; one that it finds idle the next time, a second later or more, is
 * released. A page that was written in between is *dirty* again: what is freed and allocated all the
 * time stays where it is and costs nothing. Small steps, one a turn, hold up nobody; and the hand goes
 * no further in a second than costs some thousandths of it, so that a heap in use is not looked through
 * for ever.
 */

import type { Buddy } from "./buddy.ts";

/** What is known about a page: it is zero, it may hold a byte that is not, and so it was a round ago. */
export const CLEAN = 0;
export const DIRTY = 1;
export const IDLE = 2;

/** Releases pages, `count` from `first` on: true if they are zero now, and take no memory. */
export type Release = (first: number, count: number) => boolean;

/** Regions with dirty pages that are looked through in a second. */
const REGIONS_PER_SECOND = 256;
/** Clean regions that are passed over in one step. */
const CLEAN_PER_STEP = 64;
/** Stretches of pages that are released in one step: each is a system call. */
const RELEASES_PER_STEP = 32;

export class Reclaimer {
  readonly #buddy: Buddy;
  readonly #pages: Uint8Array;
  readonly #cleared: Uint8Array;
  readonly #dirtyPages: Uint16Array;
  readonly #release: Release;
  readonly #grainsPerPage: number;
  readonly #pagesPerRegion: number;
  /** The page that the hand points at. */
  #hand = 0;
  #second = 0;
  /** What is left to do in this second: regions to pass, and dirty ones of them to look through. */
  #toPass = 0;
  #toSearch = 0;

  /** Of each page its state, and whether it was written and is clean again; of each region of `pagesPerRegion` how many are not clean. */
  constructor(
    { buddy, pages, cleared, dirtyPages, pagesPerRegion, grainsPerPage, release }: {
      buddy: Buddy;
      pages: Uint8Array;
      cleared: Uint8Array;
      dirtyPages: Uint16Array;
      pagesPerRegion: number;
      grainsPerPage: number;
      release: Release;
    },
  ) {
    this.#buddy = buddy;
    this.#pages = pages;
    this.#cleared = cleared;
    this.#dirtyPages = dirtyPages;
    this.#pagesPerRegion = pagesPerRegion;
    this.#grainsPerPage = grainsPerPage;
    this.#release = release;
  }

  /** Whether a step would do something, in the second of the last one. */
  get isBusy(): boolean {
    return this.#toPass > 0;
  }

  /** Goes a little further; `second` is the time. */
  step(second: number): void {
    if (second !== this.#second) {
      this.#second = second;
      this.#toPass = this.#dirtyPages.length;
      this.#toSearch = REGIONS_PER_SECOND;
    }
    for (let i = 0; i < CLEAN_PER_STEP && this.#toPass > 0; i++) {
      const region = Math.floor(this.#hand / this.#pagesPerRegion);
      const isClean = this.#dirtyPages[region] === 0;
      if (isClean || this.#search(region)) this.#passOn(region, isClean);
      if (!isClean) return;
    }
  }

  #passOn(region: number, isClean: boolean): void {
    this.#hand = region + 1 === this.#dirtyPages.length ? 0 : (region + 1) * this.#pagesPerRegion;
    this.#toPass--;
    if (!isClean && --this.#toSearch === 0) this.#toPass = 0;
  }

  /** Looks at a region from the hand on; false if there is more to do than for one step. */
  #search(region: number): boolean {
    const end = Math.min((region + 1) * this.#pagesPerRegion, this.#pages.length);
    let page = this.#hand;
    for (let releases = 0; page < end;) {
      if (this.#pages[page] === CLEAN) {
        page++;
        continue;
      }
      // Blocks of a heap of an odd size do not begin where pages do: the one around a page's first grain
      // must go on to its last.
      const grain = page * this.#grainsPerPage;
      const freeEnd = this.#buddy.endOfFree(grain);
      const freePages = Math.floor(freeEnd / this.#grainsPerPage) - page;
      if (freePages <= 0) {
        page++;
        continue;
      }
      const last = Math.min(end, page + freePages);
      if (this.#pages[page] === DIRTY) {
        this.#pages[page] = IDLE;
        page++;
        continue;
      }
      if (releases++ === RELEASES_PER_STEP) {
        this.#hand = page;
        return false;
      }
      let idleEnd = page + 1;
      while (idleEnd < last && this.#pages[idleEnd] === IDLE) idleEnd++;
      if (this.#release(page, idleEnd - page)) {
        this.#pages.fill(CLEAN, page, idleEnd);
        this.#cleared.fill(1, page, idleEnd);
        this.#dirtyPages[region]! -= idleEnd - page;
      }
      page = idleEnd;
    }
    return true;
  }
}
