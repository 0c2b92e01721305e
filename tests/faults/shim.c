/* Stands between a node and the C library, where nothing else can make a call
 * fail. SALTUS_SHIM names a directory; a file in it switches a fault on:
 *
 *   fail-sync   fdatasync and fsync of a segment fail with EIO
 *   clock       its text is the offset of the wall clock, in seconds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *in_shim(char *path, size_t size, const char *name) {
    const char *directory = getenv("SALTUS_SHIM");
    if (!directory) return 0;
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

static int sync_fails(int fd) {
    char path[512], link[64], target[512];
    if (!in_shim(path, sizeof path, "fail-sync") || access(path, F_OK)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 4) return 0;
    target[length] = 0;
    return !strcmp(target + length - 4, ".log") && strstr(target, "/wal/");
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (sync_fails(fd)) { errno = EIO; return -1; }
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (sync_fails(fd)) { errno = EIO; return -1; }
    return real(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    char path[512];
    if (clock != CLOCK_REALTIME || !in_shim(path, sizeof path, "clock")) return result;
    FILE *file = fopen(path, "r");
    long offset = 0;
    if (file) {
        if (fscanf(file, "%ld", &offset) != 1) offset = 0;
        fclose(file);
    }
    now->tv_sec += offset;
    return result;
}
