/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see world.h. */
#include "tests/unit/world.h"

#include "memd/common/log.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/matcher.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#define STORE_BYTES (64u << 20)

/* ---------------------------------------------------------------- contents */

static void content_bytes(uint32_t content, void *ret_bytes)
{
    uint64_t *words = ret_bytes, x = content * 0x9e3779b97f4a7c15ull;

    for (unsigned i = 0; i < WIRE_PAGE_BYTES / 8; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* of 0 only zeros follow */
        words[i] = x;
    }
}

uint64_t world_content_hash(uint32_t content)
{
    uint8_t bytes[WIRE_PAGE_BYTES];

    content_bytes(content, bytes);
    return content ? XXH3_64bits(bytes, sizeof bytes) : 0;
}

/* ---------------------------------------------------------------- making */

struct domain *world_domain(struct world *world)
{
    struct core *core = world->core;
    struct domain *domain = calloc(1, sizeof *domain);
    char dir[160];

    assert_in_range(world->ndomains, 0, WORLD_DOMAINS_MAX - 1);
    snprintf(dir, sizeof dir, "%s/%u", world->dir, world->ndomains);
    assert_int_equal(mkdir(dir, 0700), 0);
    domain->core = core;
    domain->dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    snprintf(domain->name, sizeof domain->name, "domain-%u", world->ndomains);
    CDS_INIT_LIST_HEAD(&domain->vms);
    CDS_INIT_LIST_HEAD(&domain->awaited);
    for (unsigned node = 0; node < core->nnodes; node++)
        assert_int_equal(
            store_open(domain->dir_fd, node, STORE_BYTES, &core->quota, &domain->stores[domain->nstores++]),
            0);
    domain->nindexes = core->config.merge_across_nodes ? 1 : domain->nstores;
    for (unsigned i = 0; i < domain->nindexes; i++)
        assert_int_equal(index_open(&domain->indexes[i]), 0);
    domain->rehash_store = domain->nstores;
    cds_list_add_tail(&domain->link, &core->domains);
    world->domain[world->ndomains++] = domain;
    return domain;
}

struct world *world_open(unsigned nodes, bool across_nodes)
{
    struct world *world = calloc(1, sizeof *world);
    struct core *core = calloc(1, sizeof *core);
    const char *tmp = getenv("MEMD_TEST_TMP");

    log_set_level(LOG_LEVEL_ERROR);
    core_config_default(&core->config);
    core->config.merge_across_nodes = across_nodes;
    core->nnodes = nodes;
    core->quota.frames_max = UINT32_MAX;
    core->memory.total_bytes = 1ull << 36;
    CDS_INIT_LIST_HEAD(&core->domains);
    CDS_INIT_LIST_HEAD(&core->vms);
    CDS_INIT_LIST_HEAD(&core->sessions);
    CDS_INIT_LIST_HEAD(&core->busy);
    CDS_INIT_LIST_HEAD(&core->written);
    CDS_INIT_LIST_HEAD(&core->ended);
    CDS_INIT_LIST_HEAD(&core->agents.list);
    world->core = core;
    snprintf(world->dir, sizeof world->dir, "%.100s/memd-world.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(world->dir));
    world_domain(world);
    return world;
}

static struct region *make_region(struct world_vm *w, uint32_t npages, uint32_t slot)
{
    struct region *region = calloc(1, sizeof *region);
    size_t bytes = sizeof(struct wire_map) + npages * sizeof(uint64_t);

    w->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(w->map, MAP_FAILED);
    w->map->hva = (1ull << 32) + slot * (uint64_t)WIRE_PAGE_BYTES;
    *region = (struct region){.vm = w->vm,
                              .npages = npages,
                              .answer_pages = npages,
                              .map = w->map,
                              .map_bytes = bytes,
                              .map_fd = -1,
                              .node = -1};
    assert_int_equal(holdings_open(&region->holdings, npages), 0);
    region->first_id = pages_number(&w->vm->core->pages, region, npages);
    assert_int_not_equal(region->first_id, 0);
    w->vm->domain->numbered += npages;
    w->vm->region[0] = region;
    return region;
}

struct world_vm *world_vm(struct world *world, struct domain *domain, uint32_t npages, uint32_t slot)
{
    struct world_vm *w = &world->vm[world->nvms];

    assert_in_range(world->nvms, 0, WORLD_VMS_MAX - 1);
    *w = (struct world_vm){.vm = calloc(1, sizeof *w->vm), .session = calloc(1, sizeof *w->session)};
    *w->vm = (struct vm){.core = world->core,
                         .domain = domain,
                         .session = w->session,
                         .id = ++world->nvms,
                         .merge_on = true,
                         .forks_cleared = 1};
    cds_list_add_tail(&w->vm->link, &world->core->vms);
    cds_list_add_tail(&w->vm->domain_link, &domain->vms);

    struct session *s = w->session;
    s->core = world->core;
    s->vm = w->vm;
    s->state = SESSION_LIVE;
    s->shm = mmap(NULL, sizeof *s->shm, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(s->shm, MAP_FAILED);
    atomic_store(&s->shm->stats.forks, 1);
    ring_init(&s->down_ring, &s->shm->down, s->shm->down_data);
    ring_init(&w->down, &s->shm->down, s->shm->down_data);
    exports_queue_init(&s->exports);
    CDS_INIT_LIST_HEAD(&s->busy_link);
    CDS_INIT_LIST_HEAD(&s->written_link);
    cds_list_add_tail(&s->link, &world->core->sessions);
    w->content = calloc(npages, sizeof *w->content);
    w->region = make_region(w, npages, slot);
    return w;
}

/* As when its process dies. */
void world_vm_leave(struct world *world, struct world_vm *w)
{
    (void)world;
    w->session->ended = true;
    region_detach(w->region);
    exports_abandon(w->session);
    proposals_drop_all(w->session);
    w->vm->session = NULL;
    region_free(w->region);
    cds_list_del(&w->vm->link);
    cds_list_del(&w->vm->domain_link);
    cds_list_del(&w->session->link);
    cds_list_del(&w->session->busy_link);
    cds_list_del(&w->session->written_link);
    munmap(w->session->shm, sizeof *w->session->shm);
    free(w->session);
    why_free(&w->vm->reclaim.why);
    free(w->vm);
    free(w->content);
    *w = (struct world_vm){0};
}

static void domain_end(struct domain *domain)
{
    for (unsigned s = 0; s < domain->nstores; s++)
        for (uint32_t i = 1; i < domain->stores[s].top; i++)
            if (domain->stores[s].frames[i].indexed)
                index_remove(domain_index(domain, s), &domain->stores[s].frames[i]);
    for (unsigned i = 0; i < domain->nindexes; i++)
        index_close(&domain->indexes[i]);
    for (unsigned s = 0; s < domain->nstores; s++) {
        store_close(&domain->stores[s]);
        store_unlink(domain->dir_fd, s);
    }
    close(domain->dir_fd);
    free(domain->retired.frame);
    free(domain->fenced.frame);
    free(domain);
}

void world_close(struct world *world)
{
    char dir[160];

    for (unsigned i = 0; i < world->nvms; i++)
        if (world->vm[i].vm)
            world_vm_leave(world, &world->vm[i]);
    for (unsigned i = 0; i < world->ndomains; i++) {
        domain_end(world->domain[i]);
        snprintf(dir, sizeof dir, "%s/%u", world->dir, i);
        rmdir(dir);
    }
    rmdir(world->dir);
    exports_close(&world->core->exports);
    pages_close(&world->core->pages);
    free(world->core);
    free(world);
}

/* ---------------------------------------------------------------- the engine: pages and hashes */

static void set_entry(struct world_vm *w, uint32_t page, unsigned state, uint32_t tag, uint32_t frame)
{
    uint64_t huge = w->map->entry[page] & WIRE_PAGE_F_HUGE;

    w->map->entry[page] =
        state | huge | (uint64_t)tag << WIRE_PAGE_TAG_SHIFT | (uint64_t)frame << WIRE_PAGE_FRAME_SHIFT;
}

uint32_t world_frame(const struct world_vm *w, uint32_t page)
{
    return (uint32_t)(w->map->entry[page] >> WIRE_PAGE_FRAME_SHIFT);
}

void world_write(struct world_vm *w, uint32_t page, uint32_t content)
{
    uint32_t frame = world_frame(w, page);

    if (frame)
        assert_int_equal(region_drop(w->region, page, 1, frame), 0);
    set_entry(w, page, WIRE_PAGE_PRIVATE, 0, 0);
    w->content[page] = content;
}

void world_hash_on_node(struct world_vm *w, uint32_t page, uint32_t count, int node)
{
    _Alignas(8) uint8_t buf[sizeof(struct wire_rec_hashes) + WIRE_HASHES_MAX * sizeof(uint64_t)];
    struct wire_rec_hashes *rec = (void *)buf;

    while (count) {
        uint32_t room =
            WIRE_CHUNK_PAGES - (uint32_t)(w->map->hva / WIRE_PAGE_BYTES + page) % WIRE_CHUNK_PAGES;
        uint32_t n = count < room ? count : room;
        n = n > WIRE_HASHES_MAX ? WIRE_HASHES_MAX : n;
        *rec = (struct wire_rec_hashes){.page = page, .count = (uint16_t)n, .node = (int16_t)node};
        for (uint32_t i = 0; i < n; i++) {
            rec->hash[i] = world_content_hash(w->content[page + i]);
            if (!world_frame(w, page + i))
                set_entry(w, page + i, WIRE_PAGE_PRIVATE, wire_tag_of_hash(rec->hash[i]), 0);
        }
        matcher_hashes(w->region, rec);
        page += n;
        count -= n;
    }
}

void world_hash(struct world_vm *w, uint32_t page, uint32_t count)
{
    world_hash_on_node(w, page, count, -1);
}

void world_hash_as(struct world_vm *w, uint32_t page, uint64_t hash)
{
    _Alignas(8) uint8_t buf[sizeof(struct wire_rec_hashes) + sizeof(uint64_t)];
    struct wire_rec_hashes *rec = (void *)buf;

    *rec = (struct wire_rec_hashes){.page = page, .count = 1, .node = -1};
    rec->hash[0] = hash;
    set_entry(w, page, WIRE_PAGE_PRIVATE, wire_tag_of_hash(hash), world_frame(w, page));
    matcher_hashes(w->region, rec);
}

void world_survey(struct world_vm *w, uint32_t page)
{
    static _Alignas(8) uint8_t buf[sizeof(struct wire_rec_hashes) + WIRE_CHUNK_PAGES * sizeof(uint64_t)];
    struct wire_rec_hashes *rec = (void *)buf;

    *rec = (struct wire_rec_hashes){.page = page, .count = WIRE_CHUNK_PAGES, .node = -1};
    for (uint32_t i = 0; i < WIRE_CHUNK_PAGES; i++) {
        rec->hash[i] = world_content_hash(w->content[page + i]);
        w->map->entry[page + i] |= WIRE_PAGE_F_HUGE;
        set_entry(w, page + i, WIRE_PAGE_PRIVATE, rec->hash[i] ? wire_tag_of_hash(rec->hash[i]) : 0, 0);
    }
    matcher_survey(w->region, rec);
}

/* ---------------------------------------------------------------- the engine: answers */

static void do_export(struct world_vm *w, const struct wire_rec_export *rec)
{
    struct wire_rec_export answer = *rec;

    w->exports++;
    w->exported_pages += rec->count;
    for (uint32_t i = 0; i < rec->count; i++)
        content_bytes(w->content[rec->page + i] + (w->exports_garbage ? 1000000 : 0),
                      w->session->shm->exports[rec->slot + i]);
    if (w->exports_fail)
        answer.count = 0;
    assert_int_equal(exports_done(w->session, &answer), 0);
}

static bool equals_frame(struct world_vm *w, uint32_t page, uint32_t frame)
{
    uint8_t bytes[WIRE_PAGE_BYTES], stored[WIRE_PAGE_BYTES];

    content_bytes(w->content[page], bytes);
    assert_int_equal(store_read(domain_store(w->vm->domain, frame), frame & WIRE_FRAME_INDEX_MASK, 1, stored),
                     0);
    return !memcmp(bytes, stored, sizeof bytes);
}

static void do_merge(struct world_vm *w, const struct wire_rec_merge *rec)
{
    struct wire_rec_result result = {
        .page = rec->page, .frame = rec->frame, .count = rec->count, .id = rec->id};

    w->merges++;
    w->merge_pages += rec->count;
    assert_int_equal(rec->page / WIRE_CHUNK_PAGES, (rec->page + rec->count - 1) / WIRE_CHUNK_PAGES);
    uint64_t at = w->map->hva / WIRE_PAGE_BYTES + rec->page;
    assert_int_equal(at / WIRE_CHUNK_PAGES, (at + rec->count - 1) / WIRE_CHUNK_PAGES);
    for (uint32_t i = 0; i < rec->count; i++) {
        if (w->refuses || world_frame(w, rec->page + i) || !equals_frame(w, rec->page + i, rec->frame + i)) {
            result.why = w->refuses                      ? w->refuses
                         : world_frame(w, rec->page + i) ? WIRE_WHY_STATE
                                                         : WIRE_WHY_DIFFERS;
            if (!world_frame(w, rec->page + i))
                set_entry(w, rec->page + i, WIRE_PAGE_PRIVATE, 0, 0); /* was moved: hashed again */
            continue;
        }
        result.merged[i / 64] |= 1ull << (i % 64);
        set_entry(w, rec->page + i, WIRE_PAGE_SHARED, 0, rec->frame + i);
    }
    assert_int_equal(proposals_result(w->session, &result), 0);
}

bool world_serve(struct world *world, struct world_vm *w)
{
    _Alignas(8) uint8_t buf[WIRE_REC_BYTES_MAX];
    const struct wire_rec *rec = (void *)buf;
    bool any = false;

    exports_flush(w->session);
    proposals_flush(w->session);
    channel_flush_all(world->core);
    while (!w->silent && ring_pop(&w->down, buf, sizeof buf) > 0) {
        any = true;
        if (rec->type == WIRE_REC_EXPORT)
            do_export(w, (void *)buf);
        else if (rec->type == WIRE_REC_MERGE)
            do_merge(w, (void *)buf);
        else if (rec->type == WIRE_REC_BREAK) {
            w->breaks++;
            w->broken_page = ((struct wire_rec_break *)buf)->page;
        }
    }
    return any;
}

void world_run(struct world *world)
{
    bool any = true;

    while (any) {
        any = false;
        for (unsigned i = 0; i < world->nvms; i++)
            if (world->vm[i].vm)
                any |= world_serve(world, &world->vm[i]);
    }
}

/* ---------------------------------------------------------------- accounts */

static void count_run(void *ctx, uint32_t page, uint32_t count, uint32_t frame)
{
    uint32_t *refs = ctx;

    (void)page;
    for (uint32_t i = 0; i < count; i++)
        refs[frame + i]++; /* node 0 only */
}

static void check_domain(struct world *world, struct domain *domain)
{
    uint32_t *refs = calloc(domain->stores[0].nframes, sizeof *refs);
    uint64_t all = 0;

    for (unsigned v = 0; v < world->nvms; v++) {
        struct world_vm *w = &world->vm[v];
        if (!w->vm || w->vm->domain != domain)
            continue;
        if (domain->nstores == 1)
            holdings_each(&w->region->holdings, count_run, refs);
        all += w->region->holdings.pages;
        assert_int_equal(w->region->holdings.pages, w->vm->held_pages);
        for (uint32_t page = 0; page < w->region->npages; page++)
            if (world_frame(w, page)) {
                assert_true(holdings_has(&w->region->holdings, page, 1, world_frame(w, page)));
                assert_true(equals_frame(w, page, world_frame(w, page)));
            }
    }
    assert_int_equal(all, domain->refs);
    for (uint32_t i = 1; domain->nstores == 1 && i < domain->stores[0].top; i++)
        if (domain->stores[0].frames[i].state == FRAME_LIVE)
            assert_int_equal(domain->stores[0].frames[i].refs, refs[i]);
        else
            assert_int_equal(refs[i], 0);
    free(refs);
}

void world_check(struct world *world)
{
    for (unsigned i = 0; i < world->ndomains; i++)
        check_domain(world, world->domain[i]);
    for (unsigned v = 0; v < world->nvms; v++)
        if (world->vm[v].vm && !world->vm[v].silent) {
            assert_int_equal(world->vm[v].session->unanswered, 0);
            assert_int_equal(world->vm[v].session->pending_pages, 0);
            assert_int_equal(world->vm[v].region->unanswered, 0);
        }
}
