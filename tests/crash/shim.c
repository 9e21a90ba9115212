/* Report each libc call that changes files to a conductor, and do what it answers. See README.md.

   LD_PRELOAD puts these functions before those of libc. A call counts if its path lies below the folder CRASH_WATCH.
   Before it the shim writes "B name<TAB>path<TAB>path" to the socket CRASH_SOCKET and waits for one line:

       go          run the call, then write "A" and wait for "go" again
       kill        end the process group with SIGKILL
       fail N      do not run the call; return -1 with errno N

   The conductor answers one process at a time, so calls of several processes have an order. One mutex per process
   orders the threads. Nothing happens in a process without these variables. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static char watched[PATH_MAX];
static size_t watched_length;
static int conductor = -1;
static pid_t owner; /* the process that opened `conductor`: a forked child opens its own */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside; /* a call that this shim makes itself */

static void attach(void) {
    const char *folder = getenv("CRASH_WATCH"), *address = getenv("CRASH_SOCKET");
    watched_length = 0;
    if (!folder || !address) return;
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    strncpy(place.sun_path, address, sizeof place.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&place, sizeof place)) _exit(97);
    conductor = fcntl(fd, F_DUPFD_CLOEXEC, 400); /* out of the way of the numbers that programs expect */
    if (conductor < 0) conductor = fd; else syscall(SYS_close, fd);
    owner = getpid();
    strncpy(watched, folder, sizeof watched - 1);
    watched_length = strlen(watched);
}

__attribute__((constructor)) static void begin(void) { attach(); }

/* Called by the fork server in a new child, after it has set the variables. */
void crash_attach(void) { pthread_mutex_init(&mutex, NULL); attach(); }

static int below(const char *path) {
    return !strncmp(path, watched, watched_length) && (path[watched_length] == '/' || !path[watched_length]);
}

/* Write the absolute form of a path to `out`; return whether it counts. "." and ".." stay as they are. */
static int counts(int folder, const char *path, char *out) {
    if (!watched_length || inside || !path) return 0;
    if (path[0] == '/') snprintf(out, PATH_MAX, "%s", path);
    else {
        char base[PATH_MAX], link[64];
        if (folder == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return 0;
            base[n] = 0;
        }
        if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return below(out);
}

/* As `counts`, for a descriptor; only regular files and folders count. */
static int open_counts(int fd, char *out) {
    if (!watched_length || inside || fd < 0 || fd == conductor) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n < 0 || out[0] != '/') return 0;
    out[n] = 0;
    return below(out);
}

static void tell(const char *text, size_t n) {
    while (n) {
        ssize_t sent = send(conductor, text, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) _exit(97); /* the conductor is gone */
        text += sent, n -= sent;
    }
}

static void hear(char *line, size_t size) {
    size_t n = 0;
    while (n + 1 < size) {
        ssize_t got = recv(conductor, line + n, 1, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) _exit(97);
        if (line[n] == '\n') break;
        n++;
    }
    line[n] = 0;
}

/* Ask before a call; return 0 to run it, or the errno to fail with. A call that runs ends with `after`. */
static int before(const char *name, const char *path, const char *second) {
    char line[2 * PATH_MAX + 64];
    pthread_mutex_lock(&mutex);
    if (getpid() != owner) attach();
    int n = snprintf(line, sizeof line, "B %s\t%s\t%s\n", name, path, second);
    tell(line, n);
    hear(line, sizeof line);
    if (!strcmp(line, "kill")) { kill(0, SIGKILL); for (;;) pause(); }
    if (!strncmp(line, "fail ", 5)) { pthread_mutex_unlock(&mutex); return atoi(line + 5); }
    inside = 1;
    return 0;
}

static void after(void) {
    char line[16];
    int error = errno;
    inside = 0;
    tell("A\n", 2);
    hear(line, sizeof line);
    pthread_mutex_unlock(&mutex);
    errno = error;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define RUN(type, failed, label, path, second, call) \
    do { \
        int error_ = before(label, path, second); \
        if (error_) { errno = error_; return failed; } \
        type result_ = call; \
        after(); \
        return result_; \
    } while (0)

#define ON_FD(type, name, parameters, arguments) \
    type name parameters { \
        REAL(type, name, ON_FD_TYPES_##name); \
        char path[PATH_MAX]; \
        if (!open_counts(fd, path)) return real arguments; \
        RUN(type, -1, #name, path, "", real arguments); \
    }

#define ON_FD_TYPES_write int, const void *, size_t
#define ON_FD_TYPES_pwrite int, const void *, size_t, off_t
#define ON_FD_TYPES_pwrite64 int, const void *, size_t, off64_t
#define ON_FD_TYPES_writev int, const struct iovec *, int
#define ON_FD_TYPES_pwritev int, const struct iovec *, int, off_t
#define ON_FD_TYPES_pwritev64 int, const struct iovec *, int, off64_t
#define ON_FD_TYPES_ftruncate int, off_t
#define ON_FD_TYPES_ftruncate64 int, off64_t
#define ON_FD_TYPES_fsync int
#define ON_FD_TYPES_fdatasync int
#define ON_FD_TYPES_sync_file_range int, off64_t, off64_t, unsigned
#define ON_FD_TYPES_syncfs int
#define ON_FD_TYPES_fchmod int, mode_t
#define ON_FD_TYPES_fchown int, uid_t, gid_t
#define ON_FD_TYPES_fallocate int, int, off_t, off_t
#define ON_FD_TYPES_fallocate64 int, int, off64_t, off64_t

ON_FD(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at))
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int n), (fd, data, n))
ON_FD(ssize_t, pwritev, (int fd, const struct iovec *data, int n, off_t at), (fd, data, n, at))
ON_FD(ssize_t, pwritev64, (int fd, const struct iovec *data, int n, off64_t at), (fd, data, n, at))
ON_FD(int, ftruncate, (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, (int fd, off64_t n), (fd, n))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, sync_file_range, (int fd, off64_t at, off64_t n, unsigned flags), (fd, at, n, flags))
ON_FD(int, syncfs, (int fd), (fd))
ON_FD(int, fchmod, (int fd, mode_t mode), (fd, mode))
ON_FD(int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
ON_FD(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
ON_FD(int, fallocate64, (int fd, int mode, off64_t at, off64_t n), (fd, mode, at, n))

/* These return their errno. */
#define ALLOCATE(name, off) \
    int name(int fd, off at, off n) { \
        REAL(int, name, int, off, off); \
        char path[PATH_MAX]; \
        if (!open_counts(fd, path)) return real(fd, at, n); \
        int error = before(#name, path, ""); \
        if (error) return error; \
        int result = real(fd, at, n); \
        after(); \
        return result; \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

static int writes(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY; }
static int takes_mode(int flags) { return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE; }

#define OPEN(name, extra_types, extra, folder, first, label) \
    int name(extra first const char *file, int flags, ...) { \
        REAL(int, name, extra_types const char *, int, ...); \
        mode_t mode = 0; \
        if (takes_mode(flags)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
        char path[PATH_MAX]; \
        if (!writes(flags) || !counts(folder, file, path)) return CALL_##name; \
        RUN(int, -1, (flags & O_CREAT) ? label "+" : label, path, "", CALL_##name); \
    }
#define CALL_open real(file, flags, mode)
#define CALL_open64 real(file, flags, mode)
#define CALL_openat real(folder, file, flags, mode)
#define CALL_openat64 real(folder, file, flags, mode)
#define NONE
#define FOLDER_TYPES int,
#define FOLDER int folder,
OPEN(open, NONE, NONE, AT_FDCWD, NONE, "open")
OPEN(open64, NONE, NONE, AT_FDCWD, NONE, "open")
OPEN(openat, FOLDER_TYPES, FOLDER, folder, NONE, "open")
OPEN(openat64, FOLDER_TYPES, FOLDER, folder, NONE, "open")

#define ON_PATH(type, name, parameters, types, arguments, folder, file) \
    type name parameters { \
        REAL(type, name, types); \
        char path[PATH_MAX]; \
        if (!counts(folder, file, path)) return real arguments; \
        RUN(type, -1, #name, path, "", real arguments); \
    }
#define T(...) __VA_ARGS__
ON_PATH(int, creat, (const char *file, mode_t mode), T(const char *, mode_t), (file, mode), AT_FDCWD, file)
ON_PATH(int, creat64, (const char *file, mode_t mode), T(const char *, mode_t), (file, mode), AT_FDCWD, file)
ON_PATH(int, truncate, (const char *file, off_t n), T(const char *, off_t), (file, n), AT_FDCWD, file)
ON_PATH(int, truncate64, (const char *file, off64_t n), T(const char *, off64_t), (file, n), AT_FDCWD, file)
ON_PATH(int, unlink, (const char *file), T(const char *), (file), AT_FDCWD, file)
ON_PATH(int, unlinkat, (int at, const char *file, int flags), T(int, const char *, int), (at, file, flags), at, file)
ON_PATH(int, remove, (const char *file), T(const char *), (file), AT_FDCWD, file)
ON_PATH(int, mkdir, (const char *file, mode_t mode), T(const char *, mode_t), (file, mode), AT_FDCWD, file)
ON_PATH(int, mkdirat, (int at, const char *file, mode_t mode), T(int, const char *, mode_t), (at, file, mode), at, file)
ON_PATH(int, rmdir, (const char *file), T(const char *), (file), AT_FDCWD, file)
ON_PATH(int, chmod, (const char *file, mode_t mode), T(const char *, mode_t), (file, mode), AT_FDCWD, file)
ON_PATH(int, fchmodat, (int at, const char *file, mode_t mode, int flags), T(int, const char *, mode_t, int),
        (at, file, mode, flags), at, file)
ON_PATH(int, mkfifo, (const char *file, mode_t mode), T(const char *, mode_t), (file, mode), AT_FDCWD, file)

#define ON_TWO(name, parameters, types, arguments, from_at, from, to_at, to) \
    int name parameters { \
        REAL(int, name, types); \
        char path[PATH_MAX], second[PATH_MAX]; \
        int first_counts = counts(from_at, from, path), second_counts = counts(to_at, to, second); \
        if (!first_counts && !second_counts) return real arguments; \
        RUN(int, -1, #name, path, second, real arguments); \
    }
ON_TWO(rename, (const char *a, const char *b), T(const char *, const char *), (a, b), AT_FDCWD, a, AT_FDCWD, b)
ON_TWO(renameat, (int p, const char *a, int q, const char *b), T(int, const char *, int, const char *), (p, a, q, b), p, a,
       q, b)
ON_TWO(renameat2, (int p, const char *a, int q, const char *b, unsigned flags),
       T(int, const char *, int, const char *, unsigned), (p, a, q, b, flags), p, a, q, b)
ON_TWO(link, (const char *a, const char *b), T(const char *, const char *), (a, b), AT_FDCWD, a, AT_FDCWD, b)
ON_TWO(linkat, (int p, const char *a, int q, const char *b, int flags), T(int, const char *, int, const char *, int),
       (p, a, q, b, flags), p, a, q, b)
/* The text of a symbolic link is no path of this call, so only its place counts. */
ON_PATH(int, symlink, (const char *text, const char *file), T(const char *, const char *), (text, file), AT_FDCWD, file)
ON_PATH(int, symlinkat, (const char *text, int at, const char *file), T(const char *, int, const char *), (text, at, file),
        at, file)

#define COPY(name, parameters, types, arguments) \
    ssize_t name parameters { \
        REAL(ssize_t, name, types); \
        char path[PATH_MAX]; \
        if (!open_counts(to, path)) return real arguments; \
        RUN(ssize_t, -1, #name, path, "", real arguments); \
    }
COPY(sendfile, (int to, int from, off_t *at, size_t n), T(int, int, off_t *, size_t), (to, from, at, n))
COPY(sendfile64, (int to, int from, off64_t *at, size_t n), T(int, int, off64_t *, size_t), (to, from, at, n))
COPY(copy_file_range, (int from, off64_t *at, int to, off64_t *place, size_t n, unsigned flags),
     T(int, off64_t *, int, off64_t *, size_t, unsigned), (from, at, to, place, n, flags))

/* Memory that is shared with a file: the call counts, what is written to the memory later cannot. */
#define MAP(name, off) \
    void *name(void *at, size_t n, int protection, int flags, int fd, off place) { \
        REAL(void *, name, void *, size_t, int, int, int, off); \
        char path[PATH_MAX]; \
        if (!(flags & MAP_SHARED) || !(protection & PROT_WRITE) || !open_counts(fd, path)) \
            return real(at, n, protection, flags, fd, place); \
        RUN(void *, MAP_FAILED, "mmap", path, "", real(at, n, protection, flags, fd, place)); \
    }
MAP(mmap, off_t)
MAP(mmap64, off64_t)

/* C streams call libc's own write inside, past this shim: count what may flush a buffer. */
static int stream_counts(FILE *file, char *path) {
    if (!watched_length || inside || !file) return 0;
    int fd = fileno(file);
    if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) return 0;
    return open_counts(fd, path);
}

#define FOPEN(name) \
    FILE *name(const char *file, const char *mode) { \
        REAL(FILE *, name, const char *, const char *); \
        char path[PATH_MAX]; \
        if (!strpbrk(mode, "wa+") || !counts(AT_FDCWD, file, path)) return real(file, mode); \
        RUN(FILE *, NULL, "open+", path, "", real(file, mode)); \
    }
FOPEN(fopen)
FOPEN(fopen64)

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    char path[PATH_MAX];
    if (!stream_counts(file, path)) return real(data, size, n, file);
    RUN(size_t, 0, "fwrite", path, "", real(data, size, n, file));
}

int fflush(FILE *file) {
    REAL(int, fflush, FILE *);
    char path[PATH_MAX];
    if (!stream_counts(file, path)) return real(file);
    RUN(int, EOF, "fflush", path, "", real(file));
}

int fclose(FILE *file) {
    REAL(int, fclose, FILE *);
    char path[PATH_MAX];
    if (!stream_counts(file, path)) return real(file);
    RUN(int, EOF, "fclose", path, "", real(file));
}

/* Programs without a wrapper in their libc call by number. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    char path[PATH_MAX], second[PATH_MAX];
    if (number == SYS_renameat2 && watched_length && !inside) {
        int one = counts((int)a[0], (char *)a[1], path), two = counts((int)a[2], (char *)a[3], second);
        if (one || two) RUN(long, -1, "renameat2", path, second, real(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    }
    if (number == SYS_copy_file_range && open_counts((int)a[2], path))
        RUN(long, -1, "copy_file_range", path, "", real(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
