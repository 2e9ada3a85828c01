/* LD_PRELOAD: creating, renaming and removing files below a folder fails while a switch is set.
 *
 *   FAILING_FOLDER   paths that begin with this
 *   FAILING_SWITCH   a file that is mapped: its first four bytes are the errno, 0: no failure
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *folder;
static volatile int *number;

__attribute__((constructor)) static void init(void) {
    const char *path = getenv("FAILING_SWITCH");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = fd >= 0 ? mmap(NULL, 4, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (mapped != MAP_FAILED) {
        /* Copied, because a process title overwrites the environment. */
        folder = strdup(getenv("FAILING_FOLDER"));
        number = mapped;
    }
}

static int fails(const char *path) {
    if (!number || !*number || !folder || strncmp(path, folder, strlen(folder)) != 0) {
        return 0;
    }
    errno = *number;
    return 1;
}

#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails(path)) {
        return -1;
    }
    return REAL(name, const char *, int, mode_t)(path, flags, mode);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return opened(#name, path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) {
    return fails(to) ? -1 : REAL("rename", const char *, const char *)(from, to);
}

int unlink(const char *path) {
    return fails(path) ? -1 : REAL("unlink", const char *)(path);
}

int mkdir(const char *path, mode_t mode) {
    return fails(path) ? -1 : REAL("mkdir", const char *, mode_t)(path, mode);
}
