/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memd-run: run a program with libmemd-preload.so in front of libc. It sets the environment the library reads
 * (track.c) and becomes the program; nothing of it stays.
 */
#include "memd/common/name.h"
#include "memd/memd.h"
#include "memd/wire.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LIBRARY        "libmemd-preload.so"
#define EXIT_USAGE     2
#define EXIT_CANNOT    126
#define EXIT_NO_SUCH   127
#define ALL_ANON_LEAST (64u << 10)

static const char usage[] =
    "usage: memd-run [OPTION]... [--] COMMAND [ARG]...\n"
    "Runs COMMAND so that memd looks after the memory it advises with madvise(MADV_MERGEABLE);\n"
    "QEMU advises all guest RAM. Without a memd the command runs as it would anyway, and memd\n"
    "picks it up when it appears.\n"
    "\n"
    "  --name NAME        what memctl calls it (default: the command's name and its pid);\n"
    "                     processes that come from it are NAME.PID\n"
    "  --domain DOMAIN    trust domain to share pages in (default: with nobody else)\n"
    "  --run-dir DIR      where memd's sockets are (default: $MEMD_RUN_DIR, else " WIRE_RUN_DIR ")\n"
    "  --all-anon SIZE    look after private anonymous mappings of SIZE and more too, advised or not\n"
    "                     (64K or more; suffixes K, M, G)\n"
    "  --help, --version\n"
    "\n"
    "Exit status: that of COMMAND; 2 usage; 126 COMMAND cannot be run; 127 there is none.\n";

static void refuse(const char *what, const char *arg)
{
    fprintf(stderr, "memd-run: %s: %s\n", arg, what);
    exit(EXIT_USAGE);
}

static void check_name(const char *name, const char *what)
{
    if (!name_is_valid(name))
        refuse(what, name);
}

static uint64_t parse_size(const char *text)
{
    static const char suffixes[] = "KMG";
    char *end;

    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    const char *suffix = *end ? strchr(suffixes, *end & ~0x20) : NULL;
    unsigned shift = suffix ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
    if (end == text || *text == '-' || (*end && (!suffix || end[1])) || errno || n > UINT64_MAX >> shift ||
        n << shift < ALL_ANON_LEAST)
        refuse("not a size of 64K or more (such as 64K, 2M, 1G)", text);
    return n << shift;
}

/* ---- the library: beside us in a build directory, else where it was installed */

static bool try_library(char *path, size_t size, const char *dir, const char *sub)
{
    int n = snprintf(path, size, "%s%s/%s", dir, sub, LIBRARY);

    return n > 0 && (size_t)n < size && !access(path, R_OK);
}

static void find_library(char *path, size_t size)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n > 0) {
        self[n] = 0;
        const char *dir = dirname(self);
        if (try_library(path, size, dir, "") || try_library(path, size, dir, "/../lib/memd") ||
            try_library(path, size, dir, "/../lib"))
            return;
    }
    fprintf(stderr, "memd-run: " LIBRARY " is neither beside memd-run nor in ../lib/memd: reinstall memd\n");
    exit(EXIT_CANNOT);
}

/* ---- the command */

/* A path of the command, as execvp would find it; NULL: none. */
static const char *find_command(const char *command, char *path, size_t size)
{
    const char *dirs = getenv("PATH");

    if (strchr(command, '/'))
        return command;
    for (const char *d = dirs ? dirs : "/bin:/usr/bin"; *d; d += *d == ':') {
        size_t n = strcspn(d, ":");
        int len = snprintf(path, size, "%.*s/%s", n ? (int)n : 1, n ? d : ".", command);
        d += n;
        if (len > 0 && (size_t)len < size && !access(path, X_OK))
            return path;
    }
    return NULL;
}

/* Programs into which nothing can be loaded: said, and run all the same. */
static void warn_if_unreachable(const char *path)
{
    Elf64_Ehdr e;
    Elf64_Phdr p;
    struct stat st;
    bool interpreted = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, &e, sizeof e) != sizeof e || memcmp(e.e_ident, ELFMAG, SELFMAG) ||
        e.e_ident[EI_CLASS] != ELFCLASS64) {
        if (fd >= 0)
            close(fd);
        return; /* a script: what interprets it is another program */
    }
    for (unsigned i = 0; i < e.e_phnum && !interpreted; i++)
        interpreted =
            pread(fd, &p, sizeof p, (off_t)(e.e_phoff + i * sizeof p)) == sizeof p && p.p_type == PT_INTERP;
    if (!interpreted)
        fprintf(stderr, "memd-run: %s is linked statically: memd cannot look after it\n", path);
    else if (!fstat(fd, &st) && (((st.st_mode & S_ISUID) && st.st_uid != geteuid()) ||
                                 ((st.st_mode & S_ISGID) && st.st_gid != getegid()) ||
                                 (geteuid() && fgetxattr(fd, "security.capability", NULL, 0) > 0)))
        fprintf(stderr,
                "memd-run: %s gets rights of its own (set-user-ID, set-group-ID, capabilities): "
                "memd cannot look after it\n",
                path);
    close(fd);
}

/* "qemu-system-x86_64-1234" */
static void default_name(char *name, size_t size, const char *command)
{
    const char *slash = strrchr(command, '/');

    snprintf(name, size, "%.40s-%d", slash ? slash + 1 : command, (int)getpid());
    name_mend(name);
}

static void preload(const char *library)
{
    const char *before = getenv("LD_PRELOAD");

    if (strpbrk(library, " :")) { /* both divide LD_PRELOAD */
        fprintf(stderr, "memd-run: %s: a library cannot be preloaded from a path with a blank or a colon\n",
                library);
        exit(EXIT_CANNOT);
    }
    size_t size = strlen(library) + (before ? strlen(before) : 0) + 2;
    char *both = malloc(size);

    if (!both) {
        fprintf(stderr, "memd-run: out of memory\n");
        exit(EXIT_CANNOT);
    }
    snprintf(both, size, "%s%s%s", library, before && *before ? ":" : "", before ? before : "");
    setenv("LD_PRELOAD", both, 1);
    free(both);
}

int main(int argc, char **argv)
{
    enum { NAME = 256, DOMAIN, RUN_DIR, ALL_ANON, VERSION };
    static const struct option options[] = {
        {"name", required_argument, NULL, NAME},
        {"domain", required_argument, NULL, DOMAIN},
        {"run-dir", required_argument, NULL, RUN_DIR},
        {"all-anon", required_argument, NULL, ALL_ANON},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    char library[4096], found[4096], number[24], own_name[WIRE_NAME_BYTES];
    const char *name = NULL;
    int c;

    unsetenv("MEMD_RUN_ALL_ANON"); /* of a memd-run around this one */
    while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
        switch (c) {
        case NAME:
            check_name(optarg, "a name has 1 to 63 of the letters A-Z a-z 0-9 . _ -");
            name = optarg;
            break;
        case DOMAIN:
            check_name(optarg, "a domain's name has 1 to 63 of the letters A-Z a-z 0-9 . _ -");
            setenv("MEMD_RUN_DOMAIN", optarg, 1);
            break;
        case RUN_DIR:
            if (strlen(optarg) + sizeof "/" WIRE_SOCKET_NAME > 108)
                refuse("too long for the path of a socket", optarg);
            setenv("MEMD_RUN_DIR", optarg, 1);
            break;
        case ALL_ANON:
            snprintf(number, sizeof number, "%llu", (unsigned long long)parse_size(optarg));
            setenv("MEMD_RUN_ALL_ANON", number, 1);
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case VERSION:
            puts("memd-run " MEMD_VERSION);
            return 0;
        default:
            fputs("try: memd-run --help\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc) {
        fputs("memd-run: no command; try: memd-run --help\n", stderr);
        return EXIT_USAGE;
    }
    const char *command = find_command(argv[optind], found, sizeof found);
    if (command)
        warn_if_unreachable(command);
    find_library(library, sizeof library);
    preload(library);
    if (!name)
        default_name(own_name, sizeof own_name, argv[optind]);
    setenv("MEMD_RUN_NAME", name ? name : own_name, 1);
    snprintf(number, sizeof number, "%d", (int)getpid());
    setenv("MEMD_RUN_PID", number, 1);
    execvp(argv[optind], argv + optind);
    fprintf(stderr, "memd-run: %s: %s\n", argv[optind], strerror(errno));
    return errno == ENOENT ? EXIT_NO_SUCH : EXIT_CANNOT;
}
