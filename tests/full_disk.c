/* A disk that is full once: preloaded, it lets the n-th call that would write below a folder fail with ENOSPC. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static int calls, failing;

/* The n-th call from now on fails, or none where n is 0. */
void arm(const char *folder, int n) {
    strncpy(below, folder, sizeof below - 1);
    calls = 0;
    failing = n;
}

/* How many calls there were. */
int counted(void) { return calls; }

static int full_path(const char *path) {
    if (!below[0] || !path || !strstr(path, below)) return 0;
    if (__sync_add_and_fetch(&calls, 1) != failing) return 0;
    errno = ENOSPC;
    return 1;
}

static int full(int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = below[0] ? readlink(link, path, sizeof path - 1) : -1;
    errno = kept;
    if (n < 0) return 0;
    path[n] = 0;
    return full_path(path);
}

#define NEXT(result, name, ...) ((result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *p, size_t n) { return full(fd) ? -1 : NEXT(ssize_t, write, int, const void *, size_t)(fd, p, n); }
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    return full(fd) ? -1 : NEXT(ssize_t, pwrite, int, const void *, size_t, off_t)(fd, p, n, at);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    return full(fd) ? -1 : NEXT(ssize_t, pwrite64, int, const void *, size_t, off64_t)(fd, p, n, at);
}
ssize_t writev(int fd, const struct iovec *p, int n) {
    return full(fd) ? -1 : NEXT(ssize_t, writev, int, const struct iovec *, int)(fd, p, n);
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) {
    return full(to) ? -1 : NEXT(ssize_t, sendfile, int, int, off_t *, size_t)(to, from, at, n);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) {
    return full(to) ? -1 : NEXT(ssize_t, sendfile64, int, int, off64_t *, size_t)(to, from, at, n);
}
size_t fwrite(const void *p, size_t size, size_t n, FILE *file) {
    return full(fileno(file)) ? 0 : NEXT(size_t, fwrite, const void *, size_t, size_t, FILE *)(p, size, n, file);
}
int fsync(int fd) { return full(fd) ? -1 : NEXT(int, fsync, int)(fd); }
int mkdir(const char *path, mode_t mode) { return full_path(path) ? -1 : NEXT(int, mkdir, const char *, mode_t)(path, mode); }
int rename(const char *from, const char *to) { return full_path(to) ? -1 : NEXT(int, rename, const char *, const char *)(from, to); }

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;         \
        va_end(more);                                                     \
        if (flags & O_CREAT && full_path(path)) return -1;                \
        return NEXT(int, name, const char *, int, ...)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
