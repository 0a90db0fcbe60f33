/*
 * userfaultfd(2), as far as the pager needs it: who touches a page of the range that is absent, or writes to one
 * that is protected, waits until the pager has seen to it.
 */
#ifndef USERFAULT_H
#define USERFAULT_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * Opens one, in one of the three ways in which the kernel grants it: the device, the system call, or a device that
 * was opened by somebody who may and handed down. Never with UFFD_USER_MODE_ONLY: system calls that are given an
 * absent page would fail with EFAULT. -1 if there is no way; *why says so, and *hint what to do.
 */
int userfault_open(int device, const char **why, const char **hint);

/* True if a descriptor is the device: the program may have closed it, and opened something else. */
bool userfault_is_device(int fd);

/* From now on the pages of a mapping are the pager's. False, with errno, if they cannot be. */
bool userfault_register(int fd, char *start, size_t length);

/* Puts pages in place of absent ones, and wakes who waits for them. Dies if there is no memory. */
void userfault_copy(int fd, char *page, const void *data, size_t length, bool is_protected);

/* Puts zeros in place of absent pages, and wakes who waits. False if one of them is there. */
bool userfault_zero(int fd, char *page, size_t length);

/* Makes pages such that writes to them wait, or no longer do. */
void userfault_protect(int fd, char *page, size_t length, bool is_protected);

/* Wakes who waits: they look again. */
void userfault_wake(int fd, char *page, size_t length);

#endif
