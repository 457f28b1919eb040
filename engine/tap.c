#include "engine/tap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char *const point_names[EBB_POINTS] = {"block_in",     "attn_out",  "cross_out",
                                                    "mlp_out",      "block_out", "attn_frames",
                                                    "attn_entropy", "latent",    "velocity"};
static const char *const pool_names[EBB_POOLS] = {"mean", "frame_mean", "moments", "motion", "tokens"};

static bool is_statistic(ebb_point p) {
  return p == EBB_ATTN_FRAMES || p == EBB_ATTN_ENTROPY;
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

/* The shape of one video's numbers at one step. */
static ebb_feature feature_of(const ebb_tap_plan *plan, ebb_point point, ebb_pool pool) {
  ebb_feature f = {.by_block = !is_latent(point)};
  const ebb_tap_sizes *z = &plan->sizes;
  int64_t width = is_latent(point) ? z->channels : z->width;
  int64_t frames = is_latent(point) ? z->latent_frames : z->frames;
  int64_t tokens = is_latent(point) ? z->latent_tokens : z->tokens;
  if (f.by_block)
    f.shape[f.rank++] = plan->block_count;
  if (is_statistic(point)) {
    f.shape[f.rank++] = z->heads;
    f.shape[f.rank++] = z->frames;
    if (point == EBB_ATTN_FRAMES)
      f.shape[f.rank++] = z->frames;
    strcpy(f.name, point_names[point]);
    return f;
  }
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
  *plan = (ebb_tap_plan){.sizes = sizes};
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

bool ebb_tap_open(ebb_tap *tap, const ebb_tap_plan *plan, ebb_context *c, int64_t batch, ebb_error *err) {
  *tap = (ebb_tap){.plan = plan, .context = c, .batch = batch, .step = -1};
  for (int i = 0; i < plan->block_count; i++)
    tap->blocks[plan->blocks[i] >> 6] |= (uint64_t)1 << (plan->blocks[i] & 63);
  int64_t widest = 1;
  tap->data = calloc((size_t)plan->slot_count + 1, sizeof *tap->data);
  bool ok = tap->data != NULL;
  for (int i = 0; ok && i < plan->slot_count; i++) {
    const ebb_tap_slot *s = &plan->slots[i];
    int64_t width = slot_width(plan, s);
    widest = width > widest ? width : widest;
    tap->data[i] = calloc((size_t)(batch * plan->step_count * feature_floats(&s->feature)), sizeof(float));
    ok = tap->data[i] != NULL || plan->step_count == 0;
  }
  tap->landing = malloc((size_t)(batch * widest) * sizeof(float));
  if (!ok || !tap->landing) {
    ebb_tap_close(tap);
    return ebb_fail(
        err,
        "no memory for %lld captured numbers of each of %lld videos: capture fewer steps, blocks or points",
        (long long)ebb_tap_plan_floats(plan), (long long)batch);
  }
  return true;
}

void ebb_tap_close(ebb_tap *tap) {
  for (int i = 0; tap->data && i < tap->plan->slot_count; i++)
    free(tap->data[i]);
  free(tap->data);
  free(tap->landing);
  *tap = (ebb_tap){.step = -1};
}

void ebb_tap_step(ebb_tap *tap, int evaluation) {
  if (!tap)
    return;
  tap->step = -1;
  for (int i = 0; i < tap->plan->step_count; i++)
    if (tap->plan->steps[i] == evaluation)
      tap->step = i;
}

static int block_index(const ebb_tap_plan *plan, int block) {
  for (int i = 0; i < plan->block_count; i++)
    if (plan->blocks[i] == block)
      return i;
  assert(!"a block that is not wanted");
  return 0;
}

/* y [B, width...] to its place in the slot's buffer [B, steps, (blocks,) width]. */
static void deliver(ebb_tap *tap, int slot, int block, ebb_tensor y) {
  const ebb_tap_plan *plan = tap->plan;
  const ebb_tap_slot *s = &plan->slots[slot];
  if (tap->context->counting)
    return;
  int64_t width = slot_width(plan, s), blocks = s->feature.by_block ? plan->block_count : 1;
  int64_t at = tap->step * blocks + (s->feature.by_block ? block_index(plan, block) : 0);
  assert(ebb_count(y) == tap->batch * width);
  ebb_download(tap->context, tap->landing, y);
  for (int64_t b = 0; b < tap->batch; b++)
    memcpy(tap->data[slot] + (b * plan->step_count * blocks + at) * width, tap->landing + b * width,
           (size_t)width * sizeof(float));
}

/* tokens [B,S,D] -> the pooled tensor, in the activation arena. */
static ebb_tensor pooled(ebb_context *c, ebb_pool pool, ebb_tensor tokens, int64_t frames) {
  int64_t B = tokens.shape[0], D = tokens.shape[2];
  ebb_tensor y = tokens;
  if (pool == EBB_MEAN) {
    y = EBB_ACTIVATION(c, "pooled", B, D);
    ebb_pool_mean(c, y, tokens);
  } else if (pool == EBB_FRAME_MEAN) {
    y = EBB_ACTIVATION(c, "pooled by frame", B, frames, D);
    ebb_pool_frames(c, y, tokens);
  } else if (pool == EBB_MOMENTS) {
    y = EBB_ACTIVATION(c, "moments", B, 2, D);
    ebb_pool_moments(c, y, tokens, frames);
  } else if (pool == EBB_MOTION) {
    y = EBB_ACTIVATION(c, "motion", B, 2, D);
    ebb_pool_motion(c, y, tokens, frames);
  }
  return y;
}

static void take(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens, int64_t frames) {
  ebb_context *c = tap->context;
  for (int i = 0; i < tap->plan->slot_count; i++) {
    if (tap->plan->slots[i].point != point)
      continue;
    size_t mark = ebb_arena_mark(&c->activations);
    deliver(tap, i, block, pooled(c, tap->plan->slots[i].pool, tokens, frames));
    ebb_arena_release(&c->activations, mark);
  }
}

void ebb_tap_take(ebb_tap *tap, ebb_point point, int block, ebb_tensor tokens) {
  take(tap, point, block, tokens, tap->plan->sizes.frames);
}

const ebb_attention_stats *ebb_tap_stats(ebb_tap *tap, int block, ebb_attention_stats *stats) {
  *stats = (ebb_attention_stats){0};
  if (ebb_tap_wants(tap, EBB_ATTN_FRAMES, block)) {
    const ebb_tap_sizes *z = &tap->plan->sizes;
    stats->mass = EBB_ACTIVATION(tap->context, "attn_frames", tap->batch, z->heads, z->frames, z->frames);
  }
  if (ebb_tap_wants(tap, EBB_ATTN_ENTROPY, block)) {
    const ebb_tap_sizes *z = &tap->plan->sizes;
    stats->entropy = EBB_ACTIVATION(tap->context, "attn_entropy", tap->batch, z->heads, z->frames);
  }
  return ebb_present(stats->mass) || ebb_present(stats->entropy) ? stats : NULL;
}

void ebb_tap_take_stats(ebb_tap *tap, int block, const ebb_attention_stats *stats) {
  for (int i = 0; stats && i < tap->plan->slot_count; i++) {
    if (tap->plan->slots[i].point == EBB_ATTN_FRAMES)
      deliver(tap, i, block, stats->mass);
    else if (tap->plan->slots[i].point == EBB_ATTN_ENTROPY)
      deliver(tap, i, block, stats->entropy);
  }
}

void ebb_tap_latent(ebb_tap *tap, ebb_point point, ebb_tensor x) {
  if (!tap || tap->step < 0 || !(tap->plan->points >> point & 1u))
    return;
  ebb_context *c = tap->context;
  const ebb_tap_sizes *z = &tap->plan->sizes;
  size_t mark = ebb_arena_mark(&c->activations);
  ebb_tensor tokens = EBB_ACTIVATION(c, "latent tokens", x.shape[0], z->latent_tokens, z->channels);
  ebb_patchify(c, tokens, x, (const int[]){1, 1, 1});
  take(tap, point, 0, tokens, z->latent_frames);
  ebb_arena_release(&c->activations, mark);
}
