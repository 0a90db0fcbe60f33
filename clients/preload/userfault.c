#define _GNU_SOURCE
#include "userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "options.h"

#define FLAGS (O_CLOEXEC | O_NONBLOCK)

bool userfault_is_device(int fd) {
  struct stat there, here;
  return fd >= 0 && stat("/dev/userfaultfd", &there) == 0 && fstat(fd, &here) == 0 && S_ISCHR(here.st_mode) &&
         here.st_rdev == there.st_rdev;
}

static int from_device(int device) {
  return !userfault_is_device(device) ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);
}

int userfault_open(int device, const char **why, const char **hint) {
  int opened = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  int fd = from_device(opened);
  if (opened >= 0) close(opened);
  if (fd < 0) fd = syscall(SYS_userfaultfd, FLAGS);
  if (fd < 0 && errno == ENOSYS) {
    *why = "this kernel has no userfaultfd";
    *hint = "MALLOCD_FALLBACK=1 runs the program with plain malloc";
    return -1;
  }
  if (fd < 0) fd = from_device(device);
  if (fd < 0) {
    *why = "no permission for userfaultfd";
    *hint = "let the user read and write /dev/userfaultfd, or `sysctl vm.unprivileged_userfaultfd=1`, or make "
            "mallocd-run setuid root; MALLOCD_FALLBACK=1 runs the program with plain malloc";
    return -1;
  }
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
  if (ioctl(fd, UFFDIO_API, &api) == 0) return fd;
  *why = "this kernel's userfaultfd cannot protect pages from writes";
  *hint = "it takes Linux 5.7 on x86-64, 6.0 on arm64; MALLOCD_FALLBACK=1 runs the program with plain malloc";
  close(fd);
  return -1;
}

bool userfault_register(int fd, char *start, size_t length) {
  struct uffdio_register range = {
      .range = {(uintptr_t)start, length},
      .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
  };
  return ioctl(fd, UFFDIO_REGISTER, &range) == 0;
}

void userfault_copy(int fd, char *page, const void *data, size_t length, bool is_protected) {
  for (size_t done = 0; done < length;) {
    struct uffdio_copy copy = {
        .dst = (uintptr_t)page + done,
        .src = (uintptr_t)data + done,
        .len = length - done,
        .mode = is_protected ? UFFDIO_COPY_MODE_WP : 0,
    };
    if (ioctl(fd, UFFDIO_COPY, &copy) == 0) return;
    if (copy.copy > 0) done += copy.copy;
    if (errno != EAGAIN) die("cannot put pages in place: %s", strerror(errno));
  }
}

bool userfault_zero(int fd, char *page, size_t length) {
  for (size_t done = 0; done < length;) {
    struct uffdio_zeropage zero = {.range = {(uintptr_t)page + done, length - done}};
    if (ioctl(fd, UFFDIO_ZEROPAGE, &zero) == 0) return true;
    if (zero.zeropage > 0) done += zero.zeropage;
    if (errno == EEXIST) return false;
    if (errno != EAGAIN) die("cannot put zeros in place: %s", strerror(errno));
  }
  return true;
}

void userfault_protect(int fd, char *page, size_t length, bool is_protected) {
  struct uffdio_writeprotect protect = {
      .range = {(uintptr_t)page, length},
      .mode = is_protected ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
  };
  while (ioctl(fd, UFFDIO_WRITEPROTECT, &protect) < 0) {
    if (errno != EAGAIN) die("cannot protect pages: %s", strerror(errno));
  }
}

void userfault_wake(int fd, char *page, size_t length) {
  struct uffdio_range range = {(uintptr_t)page, length};
  ioctl(fd, UFFDIO_WAKE, &range);
}
