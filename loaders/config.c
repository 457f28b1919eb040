#include "loaders/config.h"

#include "loaders/config_schema.h"
#include "loaders/file.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define CONFIG_MAX ((size_t)1 << 20)

/* A value in the text and where it stands. `line` 0: not from a file (--set). */
typedef struct reader {
  yaml_parser_t yaml;
  const char *path;
  bool lines;
  ebb_config *config;
  uint64_t seen[2]; /* one bit per key of the schema */
  ebb_error *err;
} reader;

/* "configs/a.yaml:12: " or "--set: " before every message. */
static const char *where(const reader *r, const yaml_mark_t *mark, char *text, size_t size) {
  if (r->lines)
    snprintf(text, size, "%s:%zu", r->path, mark->line + 1);
  else
    snprintf(text, size, "%s", r->path);
  return text;
}
#define WHERE(r, mark) where((r), (mark), (char[EBB_TEXT + 32]){0}, EBB_TEXT + 32)

static const char *event_name(yaml_event_type_t type) {
  switch (type) {
  case YAML_SCALAR_EVENT:
    return "a single value";
  case YAML_SEQUENCE_START_EVENT:
    return "a list";
  case YAML_MAPPING_START_EVENT:
    return "a section of keys";
  default:
    return "nothing";
  }
}

/* The next event; anchors, aliases and tags are refused: an experiment says what it means in its own place.
 */
static bool next(reader *r, yaml_event_t *e) {
  if (!yaml_parser_parse(&r->yaml, e)) {
    const yaml_parser_t *y = &r->yaml;
    yaml_mark_t mark = y->problem_mark;
    memset(e, 0, sizeof *e);
    return ebb_fail(r->err, "%s: not valid YAML: %s%s%s", WHERE(r, &mark),
                    y->problem != NULL ? y->problem : "unreadable", y->context != NULL ? ", " : "",
                    y->context != NULL ? y->context : "");
  }
  bool refused = e->type == YAML_ALIAS_EVENT;
  if (e->type == YAML_SCALAR_EVENT)
    refused = e->data.scalar.anchor != NULL || e->data.scalar.tag != NULL;
  else if (e->type == YAML_SEQUENCE_START_EVENT)
    refused = e->data.sequence_start.anchor != NULL || e->data.sequence_start.tag != NULL;
  else if (e->type == YAML_MAPPING_START_EVENT)
    refused = e->data.mapping_start.anchor != NULL || e->data.mapping_start.tag != NULL;
  if (!refused)
    return true;
  ebb_fail(r->err, "%s: anchors (&), aliases (*) and tags (!) are not accepted; write the value out",
           WHERE(r, &e->start_mark));
  yaml_event_delete(e);
  return false;
}

/* ---- values ------------------------------------------------------------------------------------------ */

/* One scalar: its text, whether it was written without quotes, and its place. */
typedef struct scalar {
  const char *text;
  bool plain;
  const yaml_mark_t *mark;
} scalar;

static bool fail_value(const reader *r, const ebb_key *k, scalar v) {
  char expected[512];
  return ebb_fail(r->err, "%s: %s: found %s%.80s%s, expected %s", WHERE(r, v.mark), k->name,
                  v.plain ? "" : "\"", v.text, v.plain ? "" : "\"",
                  ebb_key_expected(k, expected, sizeof expected));
}

static bool to_int(scalar v, const ebb_key *k, int64_t *to) {
  const char *digits = v.text + (v.text[0] == '-' || v.text[0] == '+');
  char *end;
  if (!v.plain || !isdigit((unsigned char)digits[0]))
    return false;
  errno = 0;
  long long n = strtoll(v.text, &end, 10);
  *to = n;
  return errno == 0 && *end == '\0' && (double)n >= k->low && (double)n <= k->high;
}

static bool to_real(scalar v, const ebb_key *k, double *to) {
  char *end;
  if (!v.plain || v.text[0] == '\0' || v.text[strspn(v.text, "+-.0123456789eE")] != '\0')
    return false;
  *to = strtod(v.text, &end);
  return *end == '\0' && isfinite(*to) && *to >= k->low && *to <= k->high;
}

/* "64x48": two integers in range. */
static bool to_size(scalar v, const ebb_key *k, int64_t to[2]) {
  const char *x = strchr(v.text, 'x');
  char first[24];
  if (x == NULL || (size_t)(x - v.text) >= sizeof first)
    return false;
  memcpy(first, v.text, (size_t)(x - v.text));
  first[x - v.text] = '\0';
  return to_int((scalar){first, v.plain, v.mark}, k, &to[0]) &&
         to_int((scalar){x + 1, v.plain, v.mark}, k, &to[1]);
}

/* Is `text` one of "a|b|c:N"? N stands for a number. */
static bool is_choice(const char *choices, const char *text) {
  for (const char *c = choices; *c != '\0';) {
    size_t n = strcspn(c, "|");
    if (n >= 2 && c[n - 1] == 'N' && c[n - 2] == ':') {
      size_t digits = strncmp(text, c, n - 1) == 0 ? strspn(text + n - 1, "0123456789") : 0;
      if (digits >= 1 && digits <= 4 && text[n - 1 + digits] == '\0')
        return true;
    } else if (strlen(text) == n && memcmp(text, c, n) == 0) {
      return true;
    }
    c += n + (c[n] == '|');
  }
  return false;
}

static bool to_text(scalar v, const ebb_key *k, char *to, size_t size) {
  bool nothing = v.plain && (v.text[0] == '\0' || strcmp(v.text, "~") == 0 || strcmp(v.text, "null") == 0);
  if (nothing || strlen(v.text) >= size || (k->choices != NULL && !is_choice(k->choices, v.text)) ||
      (k->folder && !ebb_is_plain_name(v.text)))
    return false;
  memcpy(to, v.text, strlen(v.text) + 1);
  return true;
}

static bool set_scalar(reader *r, const ebb_key *k, scalar v) {
  char *field = (char *)r->config + k->offset;
  int64_t n, hw[2];
  double x;
  switch (k->type) {
  case EBB_KEY_TEXT:
    if (!to_text(v, k, field, k->size))
      return fail_value(r, k, v);
    return true;
  case EBB_KEY_INT:
    if (!to_int(v, k, &n))
      return fail_value(r, k, v);
    memcpy(field, &n, sizeof n);
    return true;
  case EBB_KEY_REAL:
    if (!to_real(v, k, &x))
      return fail_value(r, k, v);
    memcpy(field, &x, sizeof x);
    return true;
  case EBB_KEY_BOOL:
    if (!v.plain || (strcmp(v.text, "true") != 0 && strcmp(v.text, "false") != 0))
      return fail_value(r, k, v);
    *(bool *)field = v.text[0] == 't';
    return true;
  case EBB_KEY_SIZE:
    if (!to_size(v, k, hw))
      return fail_value(r, k, v);
    memcpy(field, hw, sizeof hw);
    return true;
  case EBB_KEY_INTS:
    if (strcmp(v.text, "all") == 0) {
      ((ebb_int_list *)field)->count = -1;
      return true;
    }
    break;
  case EBB_KEY_NAMES:
    break;
  }
  return fail_value(r, k, v);
}

/* Adds one entry to a list; integers must ascend, names must differ. */
static bool add_entry(reader *r, const ebb_key *k, scalar v) {
  char *field = (char *)r->config + k->offset;
  if (k->type == EBB_KEY_INTS) {
    ebb_int_list *list = (ebb_int_list *)field;
    int64_t n;
    if (!to_int(v, k, &n) || list->count == EBB_LIST)
      return fail_value(r, k, v);
    if (list->count > 0 && n <= list->values[list->count - 1])
      return ebb_fail(r->err, "%s: %s: %lld after %lld, expected numbers that ascend without repetition",
                      WHERE(r, v.mark), k->name, (long long)n, (long long)list->values[list->count - 1]);
    list->values[list->count++] = n;
    return true;
  }
  ebb_name_list *list = (ebb_name_list *)field;
  if (list->count == (int)(sizeof list->names / sizeof list->names[0]))
    return ebb_fail(r->err, "%s: %s: more than %d names", WHERE(r, v.mark), k->name, list->count);
  if (!to_text(v, k, list->names[list->count], sizeof list->names[0]))
    return fail_value(r, k, v);
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->names[i], v.text) == 0)
      return ebb_fail(r->err, "%s: %s: %.63s is listed twice", WHERE(r, v.mark), k->name, v.text);
  list->count++;
  return true;
}

static scalar scalar_of(const yaml_event_t *e) {
  return (scalar){(const char *)e->data.scalar.value, e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE,
                  &e->start_mark};
}

/* A quoted "\0" would end the text early. */
static bool check_scalar(const reader *r, const yaml_event_t *e) {
  return strlen((const char *)e->data.scalar.value) == e->data.scalar.length ||
         ebb_fail(r->err, "%s: a value holds a zero byte", WHERE(r, &e->start_mark));
}

static bool read_list(reader *r, const ebb_key *k) {
  for (;;) {
    yaml_event_t e;
    if (!next(r, &e))
      return false;
    bool end = e.type == YAML_SEQUENCE_END_EVENT, ok = end;
    if (e.type == YAML_SCALAR_EVENT)
      ok = check_scalar(r, &e) && add_entry(r, k, scalar_of(&e));
    else if (!end)
      ebb_fail(r->err, "%s: %s: found %s in the list, expected single values", WHERE(r, &e.start_mark),
               k->name, event_name(e.type));
    yaml_event_delete(&e);
    if (end || !ok)
      return ok;
  }
}

/* The value of key k, whose first event is e (deleted by the caller). */
static bool read_value(reader *r, const ebb_key *k, const yaml_event_t *e) {
  bool is_list = k->type == EBB_KEY_INTS || k->type == EBB_KEY_NAMES;
  if (e->type == YAML_SCALAR_EVENT && !check_scalar(r, e))
    return false;
  bool all = e->type == YAML_SCALAR_EVENT && k->type == EBB_KEY_INTS &&
             strcmp((const char *)e->data.scalar.value, "all") == 0;
  if (e->type == YAML_SCALAR_EVENT && (!is_list || all))
    return set_scalar(r, k, scalar_of(e));
  if (is_list && (e->type == YAML_SCALAR_EVENT || e->type == YAML_SEQUENCE_START_EVENT)) {
    memset((char *)r->config + k->offset, 0, k->size); /* the file's list replaces the default's */
    return e->type == YAML_SCALAR_EVENT ? add_entry(r, k, scalar_of(e)) : read_list(r, k);
  }
  char expected[512];
  return ebb_fail(r->err, "%s: %s: found %s, expected %s", WHERE(r, &e->start_mark), k->name,
                  event_name(e->type), ebb_key_expected(k, expected, sizeof expected));
}

/* ---- keys -------------------------------------------------------------------------------------------- */

static bool fail_unknown(const reader *r, const yaml_mark_t *mark, const char *name) {
  const char *near = ebb_key_nearest(name);
  if (near != NULL)
    return ebb_fail(r->err, "%s: unknown key \"%.80s\"; did you mean \"%s\"?", WHERE(r, mark), name, near);
  return ebb_fail(r->err, "%s: unknown key \"%.80s\"; `ebb run --help` lists all keys", WHERE(r, mark), name);
}

static bool read_key_value(reader *r, const ebb_key *k, const yaml_mark_t *mark) {
  size_t bit = (size_t)(k - ebb_keys);
  if (r->seen[bit / 64] >> (bit % 64) & 1)
    return ebb_fail(r->err, "%s: %s is given twice", WHERE(r, mark), k->name);
  r->seen[bit / 64] |= (uint64_t)1 << (bit % 64);
  yaml_event_t e;
  if (!next(r, &e))
    return false;
  bool ok = read_value(r, k, &e);
  yaml_event_delete(&e);
  return ok;
}

static bool is_section(const char *name) {
  size_t n = strlen(name);
  for (int i = 0; i < ebb_key_count; i++)
    if (strncmp(ebb_keys[i].name, name, n) == 0 && ebb_keys[i].name[n] == '.')
      return true;
  return false;
}

/* A mapping whose start has been read: keys, and on the outer level sections. */
static bool read_mapping(reader *r, const char *section, uint64_t *sections);

static bool read_section(reader *r, const char *name, const yaml_mark_t *mark, uint64_t *sections) {
  for (int i = 0; i < ebb_key_count; i++) { /* a section is known by its first key */
    if (strncmp(ebb_keys[i].name, name, strlen(name)) != 0 || ebb_keys[i].name[strlen(name)] != '.')
      continue;
    if (sections[i / 64] >> (i % 64) & 1)
      return ebb_fail(r->err, "%s: section %s is given twice", WHERE(r, mark), name);
    sections[i / 64] |= (uint64_t)1 << (i % 64);
    break;
  }
  yaml_event_t e;
  if (!next(r, &e))
    return false;
  bool ok = e.type == YAML_MAPPING_START_EVENT;
  if (!ok)
    ebb_fail(r->err, "%s: %s: found %s, expected a section of keys", WHERE(r, &e.start_mark), name,
             event_name(e.type));
  yaml_event_delete(&e);
  return ok && read_mapping(r, name, NULL);
}

static bool read_entry(reader *r, const char *section, const yaml_event_t *e, uint64_t *sections) {
  if (e->type != YAML_SCALAR_EVENT)
    return ebb_fail(r->err, "%s: found %s, expected a key", WHERE(r, &e->start_mark), event_name(e->type));
  if (!check_scalar(r, e))
    return false;
  const char *key = (const char *)e->data.scalar.value;
  if (section == NULL && is_section(key))
    return read_section(r, key, &e->start_mark, sections);
  char *name = section == NULL ? ebb_format("%s", key) : ebb_format("%s.%s", section, key);
  const ebb_key *k = ebb_key_find(name);
  /* "model.path" is a key, but not as a name at the outer level or within a section */
  bool known = k != NULL && strchr(key, '.') == NULL;
  bool ok = known ? read_key_value(r, k, &e->start_mark) : fail_unknown(r, &e->start_mark, name);
  free(name);
  return ok;
}

static bool read_mapping(reader *r, const char *section, uint64_t *sections) {
  for (;;) {
    yaml_event_t e;
    if (!next(r, &e))
      return false;
    bool end = e.type == YAML_MAPPING_END_EVENT;
    bool ok = end || read_entry(r, section, &e, sections);
    yaml_event_delete(&e);
    if (end || !ok)
      return ok;
  }
}

/* ---- files and --set --------------------------------------------------------------------------------- */

/* Takes the next event, which has to be of this type. */
static bool expect(reader *r, yaml_event_type_t type, const char *expected) {
  yaml_event_t e;
  if (!next(r, &e))
    return false;
  bool ok = e.type == type;
  if (!ok)
    ebb_fail(r->err, "%s: expected %s", WHERE(r, &e.start_mark), expected);
  yaml_event_delete(&e);
  return ok;
}

static bool reader_open(reader *r, const char *text, size_t bytes, ebb_error *err) {
  if (!yaml_parser_initialize(&r->yaml))
    return ebb_fail(err, "%s: no memory for the YAML reader", r->path);
  yaml_parser_set_encoding(&r->yaml, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&r->yaml, (const unsigned char *)text, bytes);
  return true;
}

bool ebb_config_parse(ebb_config *config, const char *path, const char *text, size_t bytes, ebb_error *err) {
  if (bytes > CONFIG_MAX)
    return ebb_fail(err, "%s: %zu bytes, at most %zu are accepted", path, bytes, CONFIG_MAX);
  const char *disguise = ebb_file_disguise(text, bytes);
  if (disguise != NULL)
    return ebb_fail(err, "%s: not an experiment: this is %s", path, disguise);
  if (strlen(path) >= sizeof config->path)
    return ebb_fail(err, "%.80s...: the path is longer than %zu bytes", path, sizeof config->path - 1);
  ebb_config fresh; /* what fails half way leaves the caller's as it was */
  ebb_config_defaults(&fresh);
  memcpy(fresh.path, path, strlen(path) + 1);
  ebb_error local = {""};
  reader r = {.path = path, .lines = true, .config = &fresh, .err = &local};
  if (!reader_open(&r, text, bytes, err))
    return false;
  uint64_t sections[2] = {0};
  bool ok = expect(&r, YAML_STREAM_START_EVENT, "an experiment") &&
            expect(&r, YAML_DOCUMENT_START_EVENT, "an experiment: sections of keys; the file is empty") &&
            expect(&r, YAML_MAPPING_START_EVENT, "sections of keys, such as `model: {path: ...}`") &&
            read_mapping(&r, NULL, sections) && expect(&r, YAML_DOCUMENT_END_EVENT, "the end") &&
            expect(&r, YAML_STREAM_END_EVENT, "the end of the file: one experiment per file");
  yaml_parser_delete(&r.yaml);
  if (ok)
    *config = fresh;
  return ok || ebb_fail(err, "%s", local.text);
}

bool ebb_config_read(ebb_config *config, const char *path, ebb_error *err) {
  char *text;
  size_t bytes;
  if (!ebb_file_read(path, CONFIG_MAX, &text, &bytes, err))
    return false;
  bool ok = ebb_config_parse(config, path, text, bytes, err);
  free(text);
  return ok;
}

bool ebb_config_set(ebb_config *config, const char *assignment, ebb_error *err) {
  const char *equals = strchr(assignment, '=');
  if (equals == NULL || equals == assignment)
    return ebb_fail(err, "--set %.80s: expected section.key=value", assignment);
  char *name = ebb_format("%.*s", (int)(equals - assignment), assignment);
  ebb_config fresh = *config;
  ebb_error local = {""};
  reader r = {.path = "--set", .config = &fresh, .err = &local};
  const ebb_key *k = ebb_key_find(name);
  bool ok = k != NULL || fail_unknown(&r, NULL, name);
  if (ok && equals[1 + strspn(equals + 1, " \t")] == '\0') /* YAML has no document in nothing */
    ok = fail_value(&r, k, (scalar){"nothing", true, NULL});
  if (ok)
    ok = reader_open(&r, equals + 1, strlen(equals + 1), &local);
  if (ok) {
    ok = expect(&r, YAML_STREAM_START_EVENT, "a value") && expect(&r, YAML_DOCUMENT_START_EVENT, "a value") &&
         read_key_value(&r, k, NULL) && expect(&r, YAML_DOCUMENT_END_EVENT, "a single value") &&
         expect(&r, YAML_STREAM_END_EVENT, "a single value");
    yaml_parser_delete(&r.yaml);
  }
  free(name);
  if (ok)
    *config = fresh;
  return ok || ebb_fail(err, "%s", local.text);
}
