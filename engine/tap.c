#include "engine/tap.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const point_names[EBB_POINTS] = {"block_in",  "attn_out",     "cross_out",    "mlp_out",
                                                    "block_out", "attn_frames",  "attn_entropy", "attn_lag",
                                                    "attn_rows", "attn_columns", "latent",       "velocity"};
static const char *const pool_names[EBB_POOLS] = {"mean", "frame_mean", "moments", "motion", "tokens"};

static bool is_statistic(ebb_point p) {
  return p >= EBB_ATTN_FRAMES && p <= EBB_ATTN_COLUMNS;
}

static bool is_latent(ebb_point p) {
  return p == EBB_LATENT || p == EBB_VELOCITY;
}

static int index_of(const char *name, const char *const *names, int count, const char *what, ebb_error *err) {
  for (int i = 0; i < count; i++)
    if (strcmp(name, names[i]) == 0)
      return i;
  ebb_fail(err, "capture: %s '%s' is not known: expected", what, name);
  for (int i = 0; i < count; i++)
    ebb_fail_also(err, "%s %s", i ? "," : "", names[i]);
  return -1;
}

/* An ascending list of numbers below `limit`, or all of them. */
static bool compile_list(const ebb_int_list *list, const char *what, int limit, int *to, int *count,
                         ebb_error *err) {
  if (list->count < 0 && limit > EBB_LIST)
    return ebb_fail(err,
                    "capture.%ss: all %d are more than the %d that one run can keep: list the ones you want",
                    what, limit, EBB_LIST);
  *count = list->count < 0 ? limit : list->count;
  for (int i = 0; i < *count; i++) {
    int64_t n = list->count < 0 ? i : list->values[i];
    if (n < 0 || n >= limit)
      return ebb_fail(err, "capture.%ss: %lld does not exist: expected numbers from 0 to %d", what,
                      (long long)n, limit - 1);
    if (i > 0 && n <= to[i - 1])
      return ebb_fail(err, "capture.%ss: %lld comes after %d: expected ascending numbers, each once", what,
                      (long long)n, to[i - 1]);
    to[i] = (int)n;
  }
  return true;
}

/* What attention tells of each head. */
static ebb_feature statistic_of(const ebb_tap_plan *plan, ebb_point point) {
  const ebb_tap_sizes *z = &plan->sizes;
  ebb_feature f = {.by_block = true, .by_head = true, .rank = 3, .shape = {plan->block_count, z->heads}};
  f.shape[2] = point == EBB_ATTN_LAG       ? 2 * z->frames - 1
               : point == EBB_ATTN_ROWS    ? z->rows
               : point == EBB_ATTN_COLUMNS ? z->columns
                                           : z->frames;
  if (point == EBB_ATTN_FRAMES)
    f.shape[f.rank++] = z->frames;
  strcpy(f.name, point_names[point]);
  return f;
}

/* The shape of one video's numbers at one step. */
static ebb_feature feature_of(const ebb_tap_plan *plan, ebb_point point, ebb_pool pool) {
  if (is_statistic(point))
    return statistic_of(plan, point);
  ebb_feature f = {.by_block = !is_latent(point)};
  const ebb_tap_sizes *z = &plan->sizes;
  int64_t width = is_latent(point) ? z->channels : z->width;
  int64_t frames = is_latent(point) ? z->latent_frames : z->frames;
  int64_t tokens = is_latent(point) ? z->latent_tokens : z->tokens;
  if (f.by_block)
    f.shape[f.rank++] = plan->block_count;
  if (pool == EBB_FRAME_MEAN)
    f.shape[f.rank++] = frames;
  else if (pool == EBB_TOKENS)
    f.shape[f.rank++] = tokens;
  else if (pool == EBB_MOMENTS || pool == EBB_MOTION)
    f.shape[f.rank++] = 2;
  f.shape[f.rank++] = width;
  strcat(strcat(strcpy(f.name, point_names[point]), "."), pool_names[pool]);
  return f;
}

static bool add_slot(ebb_tap_plan *plan, ebb_point point, ebb_pool pool, ebb_error *err) {
  for (int i = 0; i < plan->slot_count; i++)
    if (plan->slots[i].point == point && plan->slots[i].pool == pool)
      return ebb_fail(err, "capture: '%s' is listed twice", plan->slots[i].feature.name);
  plan->slots[plan->slot_count++] = (ebb_tap_slot){point, pool, feature_of(plan, point, pool)};
  plan->points |= 1u << point;
  return true;
}

bool ebb_tap_plan_make(ebb_tap_plan *plan, const ebb_config *config, int steps, ebb_tap_sizes sizes,
                       ebb_error *err) {
  static atomic_llong plans;
  *plan = (ebb_tap_plan){.number = atomic_fetch_add(&plans, 1) + 1, .sizes = sizes};
  if (sizes.blocks > EBB_TAP_BLOCKS)
    return ebb_fail(err, "capture: the model has %lld blocks, expected at most %d", (long long)sizes.blocks,
                    EBB_TAP_BLOCKS);
  if (!compile_list(&config->capture.steps, "step", steps, plan->steps, &plan->step_count, err) ||
      !compile_list(&config->capture.blocks, "block", (int)sizes.blocks, plan->blocks, &plan->block_count,
                    err))
    return false;
  for (int i = 0; i < config->capture.points.count; i++) {
    int point = index_of(config->capture.points.names[i], point_names, EBB_POINTS, "point", err);
    if (point < 0)
      return false;
    if (is_statistic((ebb_point)point)) {
      if (!add_slot(plan, (ebb_point)point, EBB_MEAN, err))
        return false;
      continue;
    }
    if (config->capture.pool.count == 0)
      return ebb_fail(err,
                      "capture: point '%s' needs at least one entry in capture.pool (mean, frame_mean, ...)",
                      point_names[point]);
    for (int j = 0; j < config->capture.pool.count; j++) {
      int pool = index_of(config->capture.pool.names[j], pool_names, EBB_POOLS, "pool", err);
      if (pool < 0 || !add_slot(plan, (ebb_point)point, (ebb_pool)pool, err))
        return false;
    }
  }
  bool by_block = false;
  for (int i = 0; i < plan->slot_count; i++)
    by_block = by_block || plan->slots[i].feature.by_block;
  if (plan->slot_count == 0)
    return ebb_fail(err, "capture.points: nothing is listed: expected at least one point");
  if (plan->step_count == 0)
    return ebb_fail(err, "capture.steps: nothing is listed: expected at least one evaluation, or all");
  if (by_block && plan->block_count == 0)
    return ebb_fail(err, "capture.blocks: nothing is listed: expected at least one block, or all");
  return true;
}

static int64_t feature_floats(const ebb_feature *f) {
  int64_t n = 1;
  for (int d = 0; d < f->rank; d++)
    n *= f->shape[d];
  return n;
}

int64_t ebb_tap_plan_floats(const ebb_tap_plan *plan) {
  int64_t n = 0;
  for (int i = 0; i < plan->slot_count; i++)
    n += ebb_tap_slot_floats(plan, i);
  return n;
}

int64_t ebb_tap_slot_floats(const ebb_tap_plan *plan, int slot) {
  return feature_floats(&plan->slots[slot].feature) * plan->step_count;
}

/* Numbers of one video, step and block of a slot. */
static int64_t slot_width(const ebb_tap_plan *plan, const ebb_tap_slot *s) {
  return feature_floats(&s->feature) / (s->feature.by_block ? plan->block_count : 1);
}

/* ---- a batch ----------------------------------------------------------------------------------------- */

/* Blocks of a slot: 1 where the model has none. */
static int64_t slot_blocks(const ebb_tap_plan *plan, const ebb_tap_slot *s) {
  return s->feature.by_block ? plan->block_count : 1;
}

/* Lays the pieces of an evaluation out, each as aligned as a tensor of its own; how many floats in all. */
static int64_t lay_out(ebb_tap *tap) {
  const int64_t aligned = EBB_ARENA_ALIGN / sizeof(float);
  int64_t floats = 0;
  for (int i = 0; i < tap->plan->slot_count; i++) {
    const ebb_tap_slot *s = &tap->plan->slots[i];
    tap->first[i] = floats;
    tap->stride[i] = (tap->batch * slot_width(tap->plan, s) + aligned - 1) / aligned * aligned;
    floats += tap->stride[i] * slot_blocks(tap->plan, s);
  }
  return floats;
}

/* data[slot]: pointers, and behind them what they point at. */
static float **new_data(const ebb_tap_plan *plan, int64_t batch) {
  const size_t slots = (size_t)plan->slot_count;
  float **data =
      calloc(1, slots * sizeof *data + (size_t)(batch * ebb_tap_plan_floats(plan)) * sizeof **data);
  float *next = data ? (float *)(data + slots) : NULL;
  for (int i = 0; data && i < plan->slot_count; i++) {
    data[i] = next;
    next += batch * ebb_tap_slot_floats(plan, i);
  }
  return data;
}

static bool is_planned(const ebb_tap_plan *plan, ebb_point point) {
  return plan->points >> point & 1u;
}

/* Attention gives rows and columns together: room for the one that nobody wants. */
static ebb_tensor spare_offset(const ebb_tap_plan *plan, ebb_context *c, int64_t batch) {
  const ebb_tap_sizes *z = &plan->sizes;
  const bool rows = is_planned(plan, EBB_ATTN_ROWS), columns = is_planned(plan, EBB_ATTN_COLUMNS);
  if (rows == columns)
    return EBB_NO_TENSOR;
  return EBB_ACTIVATION(c, "offsets not kept", batch, z->heads, rows ? z->columns : z->rows);
}

bool ebb_tap_open(ebb_tap *tap, const ebb_tap_plan *plan, ebb_context *c, int64_t batch, ebb_error *err) {
  *tap = (ebb_tap){.plan = plan, .context = c, .batch = batch, .step = -1, .landing_step = -1};
  for (int i = 0; i < plan->block_count; i++)
    tap->blocks[plan->blocks[i] >> 6] |= (uint64_t)1 << (plan->blocks[i] & 63);
  tap->staging = EBB_ACTIVATION(c, "captured", lay_out(tap));
  tap->spare = spare_offset(plan, c, batch);
  if (c->counting || !ebb_context_ok(c, err))
    return c->counting;
  tap->data = new_data(plan, batch);
  tap->landing = ebb_host_new(c, ebb_bytes(tap->staging));
  if (tap->data && tap->landing) {
    memset(tap->landing, 0, ebb_bytes(tap->staging)); /* the gaps between pieces travel with them */
    ebb_upload(c, tap->staging, tap->landing);
    if (ebb_context_ok(c, err))
      return true;
  } else {
    ebb_fail(err,
             "no memory for %lld captured numbers of each of %lld videos: capture fewer steps, blocks or points",
             (long long)ebb_tap_plan_floats(plan), (long long)batch);
  }
  ebb_tap_close(tap);
  return false;
}

void ebb_tap_close(ebb_tap *tap) {
  if (tap->landing && tap->landing_step >= 0)
    ebb_download_wait(tap->context);
  free(tap->data);
  if (tap->landing)
    ebb_host_free(tap->context, tap->landing);
  *tap = (ebb_tap){.step = -1, .landing_step = -1};
}

/* landing's pieces [B, width] to their places in data [B, steps, (blocks,) width]. */
static void scatter(const ebb_tap *tap) {
  const ebb_tap_plan *plan = tap->plan;
  for (int i = 0; i < plan->slot_count; i++) {
    const int64_t width = slot_width(plan, &plan->slots[i]), blocks = slot_blocks(plan, &plan->slots[i]);
    for (int64_t b = 0; b < tap->batch; b++)
      for (int64_t l = 0; l < blocks; l++)
        memcpy(tap->data[i] + ((b * plan->step_count + tap->landing_step) * blocks + l) * width,
               tap->landing + tap->first[i] + l * tap->stride[i] + b * width, (size_t)width * sizeof(float));
  }
}

void ebb_tap_finish(ebb_tap *tap) {
  if (!tap || tap->landing_step < 0)
    return;
  ebb_download_wait(tap->context);
  scatter(tap);
  tap->landing_step = -1;
}

void ebb_tap_begin(ebb_tap *tap, int evaluation) {
  if (!tap)
    return;
  tap->step = -1;
  for (int i = 0; i < tap->plan->step_count; i++)
    if (tap->plan->steps[i] == evaluation)
      tap->step = i;
  if (tap->step >= 0)
    ebb_tap_finish(tap);
}

void ebb_tap_end(ebb_tap *tap) {
  if (!tap || tap->step < 0)
    return;
  if (tap->landing) {
    ebb_download_start(tap->context, tap->landing, tap->staging);
    tap->landing_step = tap->step;
  }
  tap->step = -1;
}

/* ---- in a forward ------------------------------------------------------------------------------------ */

static int block_index(const ebb_tap_plan *plan, int block) {
  for (int i = 0; i < plan->block_count; i++)
    if (plan->blocks[i] == block)
      return i;
  assert(!"a block that is not wanted");
  return 0;
}

/* Where a slot's numbers of one block go: [B, feature shape without the block]. */
static ebb_tensor piece(const ebb_tap *tap, int slot, int block) {
  const ebb_feature *f = &tap->plan->slots[slot].feature;
  const int index = f->by_block ? block_index(tap->plan, block) : 0;
  const int64_t width = slot_width(tap->plan, &tap->plan->slots[slot]);
  int64_t shape[EBB_DIMS] = {tap->batch};
  int rank = 1;
  for (int d = f->by_block; d < f->rank; d++)
    shape[rank++] = f->shape[d];
  ebb_tensor all = ebb_slice(tap->staging, tap->first[slot] + index * tap->stride[slot], tap->batch * width);
  return ebb_named(ebb_view(all, rank, shape), f->name);
}

static void take(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens, int64_t frames) {
  ebb_context *c = tap->context;
  for (int i = 0; i < tap->plan->slot_count; i++) {
    const ebb_tap_slot *s = &tap->plan->slots[i];
    if (s->point != point)
      continue;
    ebb_tensor y = piece(tap, i, block);
    if (s->pool == EBB_MEAN)
      ebb_pool_mean(c, y, tokens);
    else if (s->pool == EBB_FRAME_MEAN)
      ebb_pool_frames(c, y, tokens);
    else if (s->pool == EBB_MOMENTS)
      ebb_pool_moments(c, y, tokens, frames);
    else if (s->pool == EBB_MOTION)
      ebb_pool_motion(c, y, tokens, frames);
    else
      ebb_convert(c, y, tokens);
  }
}

void ebb_tap_take(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens) {
  take(tap, point, block, tokens, tap->plan->sizes.frames);
}

const ebb_attention_stats *ebb_tap_stats(ebb_tap *tap, int block, ebb_attention_stats *stats) {
  *stats = (ebb_attention_stats){0};
  ebb_tensor *const to[EBB_POINTS] = {[EBB_ATTN_FRAMES] = &stats->mass,
                                      [EBB_ATTN_ENTROPY] = &stats->entropy,
                                      [EBB_ATTN_LAG] = &stats->lag,
                                      [EBB_ATTN_ROWS] = &stats->rows,
                                      [EBB_ATTN_COLUMNS] = &stats->columns};
  bool any = false;
  for (int i = 0; tap && i < tap->plan->slot_count; i++) {
    const ebb_point point = tap->plan->slots[i].point;
    if (!to[point] || !ebb_tap_wants(tap, point, block))
      continue;
    *to[point] = piece(tap, i, block);
    any = true;
  }
  if (ebb_present(stats->rows) != ebb_present(stats->columns))
    *(ebb_present(stats->rows) ? &stats->columns : &stats->rows) = tap->spare;
  return any ? stats : NULL;
}

void ebb_tap_latent(ebb_tap *tap, ebb_point point, ebb_tensor x) {
  if (!tap || tap->step < 0 || !is_planned(tap->plan, point))
    return;
  ebb_context *c = tap->context;
  const ebb_tap_sizes *z = &tap->plan->sizes;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor tokens = EBB_ACTIVATION(c, "latent tokens", x.shape[0], z->latent_tokens, z->channels);
  ebb_patchify(c, tokens, x, (const int[]){1, 1, 1});
  take(tap, point, 0, tokens, z->latent_frames);
  ebb_arena_release(&c->activations, mark);
}
