#include "cli/intervention.h"

#include "loaders/file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NUMBERS 1024
#define MOST_CHANGES 10000000

static const char *const names[EBB_CHANGES] = {"baseline", "noise", "random", "orthogonal", "probe",
                                               "damage",   "zero",  "mean",   "resample"};

const char *ebb_change_name(ebb_change_kind kind) {
  return names[kind];
}

bool ebb_numbers_read(const char *option, const char *text, int64_t limit, int64_t most, int64_t *values,
                      int64_t *count, ebb_error *err) {
  *count = 0;
  if (strcmp(text, "all") == 0) {
    for (; *count < limit && *count < most; ++*count)
      values[*count] = *count;
    return limit <= most || ebb_fail(err, "--%s: all are more than %lld", option, (long long)most);
  }
  for (const char *p = text; *count < most;) {
    char *end = NULL;
    errno = 0;
    long long n = strtoll(p, &end, 10);
    if (errno || end == p || n < 0 || n >= limit || (*end && *end != ','))
      break;
    for (int64_t i = 0; i < *count; i++)
      if (values[i] == n)
        return ebb_fail(err, "--%s: %lld is listed twice", option, n);
    values[(*count)++] = n;
    if (*end == '\0')
      return true;
    p = end + 1;
  }
  return ebb_fail(err, "--%s: found '%.80s', expected all or numbers from 0 to %lld, such as 0,5", option,
                  text, (long long)limit - 1);
}

static bool read_alphas(const char *text, double *values, int64_t *count, ebb_error *err) {
  *count = 0;
  for (const char *p = text; *count < MOST_NUMBERS;) {
    char *end = NULL;
    values[*count] = strtod(p, &end);
    if (end == p || !isfinite(values[*count]) || values[*count] < 0 || (*end && *end != ','))
      break;
    for (int64_t i = 0; i < *count; i++)
      if (values[i] == values[*count])
        return ebb_fail(err, "--alpha: %g is listed twice", values[i]);
    ++*count;
    if (*end == '\0')
      return true;
    p = end + 1;
  }
  return ebb_fail(err, "--alpha: found '%.80s', expected numbers of 0 or more, such as 0.1,0.25,0.5", text);
}

/* "noise,random" as bits of kinds from `first` to `last`; "none" or nothing: no bit. */
static bool read_kinds(const char *option, const char *text, int first, int last, unsigned *kinds,
                       ebb_error *err) {
  *kinds = 0;
  if (text[0] == '\0' || strcmp(text, "none") == 0)
    return true;
  for (const char *p = text; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
    const size_t length = strcspn(p, ",");
    int kind = first;
    while (kind <= last && (strlen(names[kind]) != length || strncmp(names[kind], p, length) != 0))
      kind++;
    if (kind > last) {
      ebb_fail(err, "--%s: found '%.80s', expected none, or a list of", option, text);
      for (kind = first; kind <= last; kind++)
        ebb_fail_also(err, "%s %s", kind > first ? "," : "", names[kind]);
      return false;
    }
    *kinds |= 1u << kind;
  }
  return true;
}

void ebb_change_key(const ebb_change *c, ebb_change_kind kind, char key[80]) {
  snprintf(key, 80, "%s b%d a%.17g d%d", names[kind], c->block, c->alpha, c->draw);
}

typedef struct list {
  ebb_change *items;
  int64_t count, room;
  ebb_error *err;
} list;

static bool add(list *l, ebb_change_kind kind, int64_t block, int64_t head, double alpha, int64_t draw) {
  if (l->count == MOST_CHANGES)
    return ebb_fail(l->err, "more than %d interventions a scene: list fewer blocks, heads, alphas or draws",
                    MOST_CHANGES);
  if (l->count == l->room) {
    l->room = 2 * l->room + 64;
    ebb_change *more = realloc(l->items, (size_t)l->room * sizeof *more);
    if (!more)
      return ebb_fail(l->err, "no memory for %lld interventions", (long long)l->room);
    l->items = more;
  }
  ebb_change *c = &l->items[l->count++];
  *c = (ebb_change){.kind = kind, .block = (int)block, .head = (int)head, .alpha = alpha, .draw = (int)draw};
  if (kind == EBB_CHANGE_NOTHING)
    snprintf(c->key, sizeof c->key, "%s", names[kind]);
  else if (kind < EBB_CHANGE_ZERO)
    ebb_change_key(c, kind, c->key);
  else if (head == EBB_EDIT_ALL_HEADS)
    snprintf(c->key, sizeof c->key, "%s b%d all d%d", names[kind], c->block, c->draw);
  else
    snprintf(c->key, sizeof c->key, "%s b%d h%d d%d", names[kind], c->block, c->head, c->draw);
  return true;
}

static bool add_outputs(list *l, const ebb_change_words *w, ebb_edit_sizes z) {
  unsigned kinds;
  int64_t blocks[EBB_EDIT_BLOCKS], block_count, alpha_count;
  double alphas[MOST_NUMBERS];
  if (!read_kinds("directions", w->directions, EBB_CHANGE_NOISE, EBB_CHANGE_DAMAGE, &kinds, l->err) ||
      !ebb_numbers_read("blocks", w->blocks, z.blocks, EBB_EDIT_BLOCKS, blocks, &block_count, l->err) ||
      !read_alphas(w->alphas, alphas, &alpha_count, l->err))
    return false;
  if (kinds >> EBB_CHANGE_DAMAGE & 1u && !(kinds >> EBB_CHANGE_NOISE & 1u))
    return ebb_fail(l->err,
                    "--directions: found damage without noise, whose quality it is to have: list both");
  for (int kind = EBB_CHANGE_NOISE; kind <= EBB_CHANGE_DAMAGE; kind++)
    for (int64_t a = 0; kinds >> kind & 1u && a < alpha_count; a++)
      for (int64_t b = 0; b < block_count; b++)
        for (int64_t d = 0; d < (kind == EBB_CHANGE_PROBE ? 1 : w->draws); d++)
          if (!add(l, (ebb_change_kind)kind, blocks[b], -1, alphas[a], d))
            return false;
  return true;
}

/* One head, or all of a block, masked in every way that is asked for. */
static bool add_masks(list *l, unsigned kinds, int64_t block, int64_t head, int64_t draws) {
  for (int kind = EBB_CHANGE_ZERO; kind <= EBB_CHANGE_RESAMPLE; kind++)
    for (int64_t d = 0; kinds >> kind & 1u && d < (kind == EBB_CHANGE_RESAMPLE ? draws : 1); d++)
      if (!add(l, (ebb_change_kind)kind, block, head, 0, d))
        return false;
  return true;
}

static bool add_heads(list *l, const char *text, unsigned kinds, ebb_edit_sizes z, int64_t draws) {
  const bool each = strcmp(text, "each") == 0;
  if (each || strcmp(text, "blocks") == 0) {
    for (int64_t b = 0; b < z.blocks; b++)
      for (int64_t h = 0; h < (each ? z.heads : 1); h++)
        if (!add_masks(l, kinds, b, each ? h : EBB_EDIT_ALL_HEADS, draws))
          return false;
    return true;
  }
  char *end = NULL;
  errno = 0;
  const long long block = strtoll(text, &end, 10);
  bool ok = end != text && *end == ':' && block >= 0 && block < z.blocks;
  const char *rest = ok ? end + 1 : "";
  long long head = EBB_EDIT_ALL_HEADS;
  if (ok && strcmp(rest, "all") != 0) {
    head = strtoll(rest, &end, 10);
    ok = end != rest && *end == '\0' && head >= 0 && head < z.heads;
  }
  if (!ok || errno)
    return ebb_fail(
        l->err,
        "--heads: found '%.40s', expected each, blocks, BLOCK:HEAD or BLOCK:all, with blocks from 0 to "
        "%lld and heads from 0 to %lld",
        text, (long long)z.blocks - 1, (long long)z.heads - 1);
  return add_masks(l, kinds, block, head, draws);
}

static int by_key(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool no_key_twice(const list *l) {
  const char **keys = malloc(((size_t)l->count + 1) * sizeof *keys);
  bool ok = keys || ebb_fail(l->err, "no memory for %lld interventions", (long long)l->count);
  for (int64_t i = 0; ok && i < l->count; i++)
    keys[i] = l->items[i].key;
  if (ok)
    qsort(keys, (size_t)l->count, sizeof *keys, by_key);
  for (int64_t i = 1; ok && i < l->count; i++)
    if (strcmp(keys[i], keys[i - 1]) == 0)
      ok = ebb_fail(l->err, "--heads: '%s' is asked for twice", keys[i]);
  free(keys);
  return ok;
}

bool ebb_changes_make(const ebb_change_words *w, ebb_edit_sizes sizes, ebb_change **changes, int64_t *count,
                      ebb_error *err) {
  list l = {.err = err};
  unsigned kinds;
  bool ok = read_kinds("mask", w->masks, EBB_CHANGE_ZERO, EBB_CHANGE_RESAMPLE, &kinds, err) &&
            add(&l, EBB_CHANGE_NOTHING, -1, -1, 0, 0) && add_outputs(&l, w, sizes);
  for (int i = 0; ok && i < w->heads->count; i++)
    ok = add_heads(&l, w->heads->items[i], kinds, sizes, w->draws);
  ok = ok && (l.count > 1 || ebb_fail(err, "nothing to change: --directions none, and no --heads")) &&
       no_key_twice(&l);
  if (!ok)
    free(l.items);
  *changes = ok ? l.items : NULL;
  *count = ok ? l.count : 0;
  return ok;
}
