/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests under memd on KVM: they merge and keep their content; the kernel says which pages are one.
 *
 * Three guests hold the same content, by number of the page: g1 and g2 join the domain "web", g3 "db". After
 * settling every common page must lie in one page frame within a domain and in another one across, and pages
 * on one frame must hold the same bytes. Then g1 rewrites everything: it must share nothing any more while g2
 * keeps all. Then everything is unmerged: no page frame may appear twice anywhere.
 *
 * memd-test: timeout=240 san=address
 */
#include <stdlib.h>
#include <string.h>

#include "tests/kvm/kit.h"

#define GUESTS   3
#define CONTENTS 64 /* of memvm --shared */
#define BATCH    256

/* A data page and where it lies. */
struct place {
    uint64_t pfn;
    uint32_t guest, page;
};

static int by_pfn(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->pfn != y->pfn)
        return x->pfn < y->pfn ? -1 : 1;
    return x->guest != y->guest ? (x->guest < y->guest ? -1 : 1) : (x->page > y->page) - (x->page < y->page);
}

/* All present data pages that are not zero, sorted by page frame. */
static size_t take_places(struct kit_vm *vms, struct place *ret_places)
{
    static uint8_t bytes[BATCH * KIT_PAGE];
    static const uint8_t zero[KIT_PAGE];
    uint64_t pfns[BATCH];
    size_t n = 0;

    for (uint32_t g = 0; g < GUESTS; g++) {
        for (uint64_t page = 0; page < vms[g].pages; page += BATCH) {
            uint64_t count = vms[g].pages - page < BATCH ? vms[g].pages - page : BATCH;
            kit_bytes(&vms[g], page, count, bytes);
            kit_pfns(&vms[g], page, count, pfns);
            for (uint64_t i = 0; i < count; i++) {
                if (pfns[i] && memcmp(bytes + i * KIT_PAGE, zero, KIT_PAGE))
                    ret_places[n++] = (struct place){pfns[i], g, (uint32_t)(page + i)};
            }
        }
    }
    qsort(ret_places, n, sizeof *ret_places, by_pfn);
    return n;
}

static void check_equal(const struct kit_vm *vms, const struct place *a, const struct place *b)
{
    static uint8_t x[KIT_PAGE], y[KIT_PAGE];

    kit_bytes(&vms[a->guest], a->page, 1, x);
    kit_bytes(&vms[b->guest], b->page, 1, y);
    CHECK(!memcmp(x, y, KIT_PAGE), "page %u of %s and page %u of %s share a frame, but not their bytes",
          a->page, vms[a->guest].name, b->page, vms[b->guest].name);
}

struct sharing {
    size_t frames;        /* page frames with more than one page on them */
    size_t pages[GUESTS]; /* pages on them, by guest */
};

static struct sharing check_sharing(const struct kit_vm *vms, const struct place *places, size_t n)
{
    struct sharing found = {0};

    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && places[end].pfn == places[i].pfn; end++) {
            CHECK((places[i].guest == 2) == (places[end].guest == 2),
                  "page %u of %s and page %u of %s, of different domains, lie in page frame 0x%llx",
                  places[i].page, vms[places[i].guest].name, places[end].page, vms[places[end].guest].name,
                  (unsigned long long)places[i].pfn);
        }
        if (end - i == 1)
            continue;
        found.frames++;
        check_equal(vms, &places[i], &places[end - 1]);
        for (size_t k = i; k < end; k++)
            found.pages[places[k].guest]++;
    }
    return found;
}

/* Where every page lies; it may move meanwhile (merges, compaction), so guests are held. */
static struct sharing look(struct kit_vm *vms, struct place *places)
{
    struct sharing found;

    for (int g = 0; g < GUESTS; g++) {
        kit_vm_do(&vms[g], "pause");
        kit_vm_do(&vms[g], "stop");
    }
    found = check_sharing(vms, places, take_places(vms, places));
    printf("%zu page frames hold %zu, %zu and %zu pages of the guests\n", found.frames, found.pages[0],
           found.pages[1], found.pages[2]);
    for (int g = 0; g < GUESTS; g++) {
        kit_vm_do(&vms[g], "cont");
        kit_vm_do(&vms[g], "resume");
    }
    return found;
}

int main(void)
{
    static const char *const names[GUESTS] = {"g1", "g2", "g3"};
    static const char *const domains[GUESTS] = {"web", "web", "db"};
    static struct kit_daemon daemon;
    struct kit_vm vms[GUESTS];
    struct place *places;
    struct sharing found;
    char text[KIT_LINE_MAX];
    size_t expected;

    kit_need_kvm();
    kit_daemon_create(&daemon, KIT_ARGS("--quiet-ms", "200"));
    for (int g = 0; g < GUESTS; g++)
        kit_vm_start(&daemon, &vms[g], names[g],
                     KIT_ARGS("--domain", domains[g], "--mem", "64", "--vcpus", "2", "--thp", "off", "--zero",
                              "30", "--shared", "50", "--verify", "--seed",
                              g == 0   ? "11"
                              : g == 1 ? "12"
                                       : "13"));
    places = calloc(GUESTS * vms[0].pages, sizeof *places);
    CHECK(places, "no memory");

    kit_settle(&daemon, 60);
    found = look(vms, places);
    /* 35% of the pages are common content; 95% of these must be merged. */
    expected = vms[0].pages * 35 / 100 * 95 / 100;
    for (int g = 0; g < GUESTS; g++) {
        CHECK(found.pages[g] >= expected, "%s shares %zu pages, expected %zu", names[g], found.pages[g],
              expected);
        kit_vm_verified(&vms[g]);
    }
    CHECK(found.frames >= 2 * CONTENTS && found.frames <= 2 * CONTENTS + 8,
          "%zu frames; 64 contents in each of two domains", found.frames);
    CHECK(kit_total(&daemon, "zero_pages") >= (int64_t)(3 * vms[0].pages * 30 / 100 * 90 / 100),
          "zero pages");

    kit_vm_rewrite(&vms[0]);
    kit_vm_verified(&vms[0]);
    found = look(vms, places);
    CHECK(found.pages[0] == 0, "g1 has rewritten everything and shares %zu pages", found.pages[0]);
    CHECK(found.pages[1] >= expected, "g2 shares %zu pages after g1 wrote", found.pages[1]);

    CHECK(kit_memctl(&daemon, text, sizeof text, KIT_ARGS("unmerge", "all")) == 0, "unmerge all");
    found = look(vms, places);
    CHECK(found.frames == 0, "after unmerge all %zu page frames are shared", found.frames);
    CHECK(kit_total(&daemon, "pages_sharing") == 0 && kit_total(&daemon, "pages_shared") == 0,
          "still shared");
    for (int g = 0; g < GUESTS; g++) {
        kit_vm_verified(&vms[g]);
        kit_vm_end(&vms[g]);
    }
    kit_daemon_end(&daemon);
    free(places);
    return 0;
}
