/* A library to preload: kills its process with SIGKILL at the k-th boundary of the file system, before the call is made.
 *
 * Counted are the calls that change files below a folder: opening to write, writing, renaming, removing, making and
 * removing folders, syncing, truncating. arm(k, folder) starts counting in this process (k = 0: count and never kill),
 * passed() says how far it is. What a call before had written stays, as after a SIGKILL at any moment.
 *
 *     gcc -shared -fPIC -O1 -o stops.so stops.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char watched[PATH_MAX];
static long at = -1, seen = 0;
static char open_for_write[4096];

void arm(long k, const char *folder) {
    at = k;
    seen = 0;
    strncpy(watched, folder, sizeof watched - 1);
}

long passed(void) { return seen; }

static int below(const char *path) { return at >= 0 && path && strstr(path, watched) != NULL; }

static void boundary(void) {
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (at > 0 && now == at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

/* progress.json is written in place by a thread once a second: it would make the count depend on the clock. */
static int counted(const char *path) { return below(path) && !strstr(path, "progress.json"); }

static void opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < (int)sizeof open_for_write)
        open_for_write[fd] = counted(path) && (flags & O_ACCMODE) != O_RDONLY;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* The mode that open takes where it may create. */
#define MODE(mode)                                                              \
    mode_t mode = 0;                                                            \
    if (flags & (O_CREAT | O_TMPFILE)) {                                        \
        va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); \
    }

#define OPENS(name, parameters, arguments)                                      \
    int name parameters {                                                       \
        REAL(name);                                                             \
        MODE(mode)                                                              \
        if (counted(path) && (flags & O_ACCMODE) != O_RDONLY) boundary();       \
        int fd = real arguments;                                                \
        opened(fd, path, flags);                                                \
        return fd;                                                              \
    }
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

#define FOPEN(name)                                                             \
    FILE *name(const char *path, const char *mode) {                            \
        REAL(name);                                                             \
        int writes = strchr(mode, 'w') || strchr(mode, 'a') || strchr(mode, '+'); \
        if (counted(path) && writes) boundary();                                \
        FILE *file = real(path, mode);                                          \
        if (file) opened(fileno(file), path, writes ? O_WRONLY : O_RDONLY);     \
        return file;                                                            \
    }
FOPEN(fopen)
FOPEN(fopen64)

static int writes_to(int fd) { return at >= 0 && fd >= 0 && fd < (int)sizeof open_for_write && open_for_write[fd]; }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (writes_to(fd)) boundary();
    return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (writes_to(fd)) boundary();
    return real(fd, parts, count);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    if (writes_to(fd)) boundary();
    return real(fd, size);
}

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < (int)sizeof open_for_write) open_for_write[fd] = 0;
    return real(fd);
}

int fsync(int fd) {
    REAL(fsync);
    if (at >= 0) boundary();
    return real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    if (counted(to) || counted(from)) boundary();
    return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (counted(path)) boundary();
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    if (counted(path)) boundary();
    return real(path);
}

int rmdir(const char *path) {
    REAL(rmdir);
    if (counted(path)) boundary();
    return real(path);
}

int link(const char *from, const char *to) {
    REAL(link);
    if (counted(to)) boundary();
    return real(from, to);
}

/* shutil.rmtree removes relative to an open folder: any removal counts. */
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    if (at >= 0) boundary();
    return real(folder, path, flags);
}
