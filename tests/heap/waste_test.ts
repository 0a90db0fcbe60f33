import { assertEquals } from "@std/assert";
import { standAlone } from "../../lib/heap/metadata.ts";
import { Waste, wasteShape } from "../../lib/heap/waste.ts";

const GRAIN = 16;
const GRAINS = 1024;

function newWaste() {
  const arrays = standAlone(wasteShape(GRAINS));
  return { waste: new Waste(GRAIN, 0, arrays), byOrder: arrays.byOrder };
}

Deno.test("Waste tells what nobody asked for when blocks of all sizes come and go", () => {
  const { waste, byOrder } = newWaste();
  waste.add({ length: 10 }, 3, 0);
  waste.add({ length: 1030 }, 128, 7);
  assertEquals([byOrder[0], byOrder[7]], [6, 128 * GRAIN - 1030]);
  waste.remove(3, 0);
  waste.remove(128, 7);
  assertEquals([byOrder[0], byOrder[7]], [0, 0]);
});

Deno.test("Waste.forget() takes what is live for asked for when other blocks were there before", () => {
  const { waste, byOrder } = newWaste();
  waste.add({ length: 10 }, 3, 0);
  waste.add({ length: 1030 }, 128, 7);
  waste.add({ length: 20 }, 4, 1);
  waste.remove(3, 0);
  waste.forget([[3, 0], [128, 7]]);
  assertEquals(byOrder.every((bytes) => bytes === 0), true);
  waste.remove(3, 0);
  waste.remove(128, 7);
  assertEquals(byOrder.every((bytes) => bytes === 0), true);
});
