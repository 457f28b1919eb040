/* The pickle of a torch.save file as data. Python's pickletools.py describes the opcodes; those that
 * appear in files of tensors, protocols 1 to 5, are here, and they build values of this file's own and
 * nothing else. */
#include "loaders/file.h"
#include "loaders/pt_parts.h"

#include <stdlib.h>
#include <string.h>

enum { VALUES = 1 << 20, DEPTH = 16, NAME = 512 };

typedef enum kind { MARK, INTEGER, BOOLEAN, TEXT, GLOBAL, TUPLE, DICT, STORAGE, TENSOR } kind;
static const char *const kind_names[] = {"a mark",  "an integer", "a boolean", "a string", "a global",
                                         "a tuple", "a dict",     "a storage", "a tensor"};

/* A global is one of these; a text that is none of them is refused where it is met. */
enum { REBUILD_TENSOR, ORDERED_DICT, FIRST_STORAGE };

typedef struct value {
  kind is;
  int64_t number;   /* INTEGER, BOOLEAN; GLOBAL: which; STORAGE: its type; TENSOR: which of pt->tensors */
  const char *text; /* TEXT, not terminated; STORAGE: its first byte */
  int64_t length;   /* TEXT; TUPLE: items; STORAGE: elements */
  int32_t first;    /* TUPLE: place of its items; DICT: first pair, -1: none */
  int32_t last;     /* DICT: last pair */
} value;

typedef struct pair {
  int32_t key, value, next;
} pair;

/* A growing list of int32_t. */
typedef struct list {
  int32_t *items;
  int32_t count, room;
} list;

typedef struct machine {
  const ebb_pt_archive *archive;
  ebb_pt *pt;
  const uint8_t *start, *at, *end;
  ebb_error *err;
  value *values;
  int32_t value_count, value_room;
  pair *pairs;
  int32_t pair_count, pair_room;
  list stack, items, memo; /* of values; memo: -1 where nothing is */
  int64_t tensor_room, visited;
} machine;

#define FAIL(m, ...)                                                                                         \
  (ebb_fail((m)->err, "%s: data.pkl, byte %lld: ", (m)->archive->path, (long long)((m)->at - (m)->start)),   \
   ebb_fail_also((m)->err, __VA_ARGS__), false)

/* ---- values -------------------------------------------------------------------------------------------- */

static bool push(machine *m, list *l, int32_t item) {
  if (l->count == VALUES)
    return FAIL(m, "more than %d values", VALUES);
  if (l->count == l->room) {
    l->room = l->room > 0 ? 2 * l->room : 64;
    l->items = ebb_must(realloc(l->items, (size_t)l->room * sizeof *l->items));
  }
  l->items[l->count++] = item;
  return true;
}

static bool push_value(machine *m, value v) {
  if (m->value_count == VALUES)
    return FAIL(m, "more than %d values", VALUES);
  if (m->value_count == m->value_room) {
    m->value_room = m->value_room > 0 ? 2 * m->value_room : 64;
    m->values = ebb_must(realloc(m->values, (size_t)m->value_room * sizeof *m->values));
  }
  m->values[m->value_count] = v;
  return push(m, &m->stack, m->value_count++);
}

static bool push_integer(machine *m, int64_t number) {
  return push_value(m, (value){.is = INTEGER, .number = number});
}

/* The value `below` the top; NULL: the stack has no such value. */
static value *peek(const machine *m, int32_t below) {
  return m->stack.count > below ? &m->values[m->stack.items[m->stack.count - 1 - below]] : NULL;
}

/* How many values are above the topmost mark; -1: no mark. */
static int32_t above_mark(const machine *m) {
  for (int32_t i = 0; i < m->stack.count; i++)
    if (peek(m, i)->is == MARK)
      return i;
  return -1;
}

/* Replaces the top `count` values, and `also` more below them, by a tuple of the former. */
static bool make_tuple(machine *m, int32_t count, int32_t also) {
  if (count < 0 || m->stack.count < count + also)
    return FAIL(m, "a tuple of more values than the stack has");
  value t = {.is = TUPLE, .length = count, .first = m->items.count};
  int32_t from = m->stack.count - count;
  for (int32_t i = 0; i < count; i++) {
    if (m->values[m->stack.items[from + i]].is == MARK)
      return FAIL(m, "a mark inside a tuple");
    if (!push(m, &m->items, m->stack.items[from + i]))
      return false;
  }
  m->stack.count = from - also;
  return push_value(m, t);
}

static bool add_pair(machine *m, value *dict, int32_t key, int32_t item) {
  if (m->values[key].is != TEXT && m->values[key].is != INTEGER)
    return FAIL(m, "a dict with %s as key: expected a string or an integer", kind_names[m->values[key].is]);
  if (m->values[item].is == MARK)
    return FAIL(m, "a mark inside a dict");
  if (m->pair_count == m->pair_room) {
    m->pair_room = m->pair_room > 0 ? 2 * m->pair_room : 64;
    m->pairs = ebb_must(realloc(m->pairs, (size_t)m->pair_room * sizeof *m->pairs));
  }
  m->pairs[m->pair_count] = (pair){key, item, -1};
  if (dict->first < 0)
    dict->first = m->pair_count;
  else
    m->pairs[dict->last].next = m->pair_count;
  dict->last = m->pair_count++;
  return true;
}

/* SETITEMS: the dict below `also` values has the `count` above it as pairs. */
static bool set_items(machine *m, int32_t count, int32_t also) {
  value *dict = count < 0 ? NULL : peek(m, count + also);
  if (dict == NULL || dict->is != DICT || count % 2 != 0)
    return FAIL(m, "items set on %s: expected a dict and pairs",
                dict == NULL ? "nothing" : kind_names[dict->is]);
  if (m->pair_count > VALUES - count)
    return FAIL(m, "more than %d pairs in dicts", VALUES);
  const int32_t *item = m->stack.items + m->stack.count - count;
  for (int32_t i = 0; i < count; i += 2)
    if (!add_pair(m, dict, item[i], item[i + 1]))
      return false;
  m->stack.count -= count + also;
  return true;
}

/* ---- globals, storages, tensors ------------------------------------------------------------------------ */

static bool is_text(const char *text, int64_t length, const char *word) {
  return length == (int64_t)strlen(word) && memcmp(text, word, (size_t)length) == 0;
}

static bool push_global(machine *m, const char *module, int64_t module_length, const char *name,
                        int64_t length) {
  int which = -1;
  if (is_text(module, module_length, "torch._utils") && is_text(name, length, "_rebuild_tensor_v2"))
    which = REBUILD_TENSOR;
  if (is_text(module, module_length, "collections") && is_text(name, length, "OrderedDict"))
    which = ORDERED_DICT;
  for (int i = 0; is_text(module, module_length, "torch") && i < EBB_PT_TYPES; i++)
    if (is_text(name, length, ebb_pt_storages[i].name))
      which = FIRST_STORAGE + i;
  if (which < 0)
    return FAIL(
        m,
        "the pickle asks for the global %.*s.%.*s: only torch._utils._rebuild_tensor_v2, torch.*Storage and "
        "collections.OrderedDict are read; nothing in a pickle is executed",
        (int)(module_length < 100 ? module_length : 100), module, (int)(length < 100 ? length : 100), name);
  return push_value(m, (value){.is = GLOBAL, .number = which});
}

/* Item of a tuple; NULL: there is none, or it is of another kind. */
static const value *item_of(const machine *m, const value *tuple, int64_t i, kind is) {
  if (tuple->is != TUPLE || i >= tuple->length)
    return NULL;
  const value *v = &m->values[m->items.items[tuple->first + i]];
  return v->is == is ? v : NULL;
}

/* BINPERSID: ("storage", torch.FloatStorage, "0", "cpu", elements) -> the bytes data/0. */
static bool make_storage(machine *m) {
  const value *id = peek(m, 0);
  const value *word = id ? item_of(m, id, 0, TEXT) : NULL, *type = id ? item_of(m, id, 1, GLOBAL) : NULL,
              *key = id ? item_of(m, id, 2, TEXT) : NULL, *count = id ? item_of(m, id, 4, INTEGER) : NULL;
  char name[64];
  if (word == NULL || type == NULL || key == NULL || count == NULL || type->number < FIRST_STORAGE ||
      !is_text(word->text, word->length, "storage") || key->length > 32 || count->number < 0)
    return FAIL(m, "a persistent id that is not (\"storage\", torch.*Storage, key, place, elements)");
  int length = snprintf(name, sizeof name, "data/%.*s", (int)key->length, key->text);
  const ebb_pt_entry *entry = ebb_pt_find(m->archive, name, (size_t)length);
  int storage = (int)type->number - FIRST_STORAGE;
  uint64_t size = (uint64_t)ebb_pt_storages[storage].bytes;
  if (entry == NULL)
    return FAIL(m, "storage \"%s\" is not in the archive", name);
  if ((uint64_t)count->number > entry->bytes / size)
    return FAIL(m, "storage \"%s\" has %zu bytes, too few for %lld elements of %s", name, entry->bytes,
                (long long)count->number, ebb_pt_storages[storage].name);
  value v = {.is = STORAGE, .number = storage, .text = (const char *)entry->data, .length = count->number};
  m->stack.count--;
  return push_value(m, v);
}

static bool shape_of(machine *m, const value *shape, const value *stride, ebb_pt_tensor *t) {
  for (int64_t k = 0; k < shape->length; k++) {
    const value *n = item_of(m, shape, k, INTEGER), *s = item_of(m, stride, k, INTEGER);
    if (n == NULL || s == NULL || n->number < 0 || s->number < 0)
      return FAIL(m, "a tensor whose size or stride is no integer of 0 or more");
    t->shape[k] = n->number;
    t->stride[k] = n->number == 1 ? 0 : s->number; /* of one element it means nothing, and any is written */
  }
  t->rank = (int)shape->length;
  t->count = 1;
  for (int k = 0; k < t->rank; k++) /* 0 in one dimension stands in for all */
    t->count = t->shape[k] == 0 ? 0 : t->count;
  for (int k = 0; t->count > 0 && k < t->rank; k++)
    if (__builtin_mul_overflow(t->count, t->shape[k], &t->count) || t->count > EBB_PT_ELEMENTS)
      return FAIL(m, "a tensor of more than %lld elements", (long long)EBB_PT_ELEMENTS);
  return true;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks) */
static bool make_tensor(machine *m, const value *arguments) {
  const value *storage = item_of(m, arguments, 0, STORAGE), *offset = item_of(m, arguments, 1, INTEGER),
              *shape = item_of(m, arguments, 2, TUPLE), *stride = item_of(m, arguments, 3, TUPLE);
  if (storage == NULL || offset == NULL || shape == NULL || stride == NULL || offset->number < 0)
    return FAIL(m, "_rebuild_tensor_v2 without (storage, offset, size, stride, ...)");
  if (shape->length != stride->length || shape->length > EBB_PT_RANK)
    return FAIL(m, "a tensor of %lld dimensions and %lld strides: expected as many, at most %d",
                (long long)shape->length, (long long)stride->length, EBB_PT_RANK);
  ebb_pt_tensor t = {.type = (ebb_pt_type)storage->number};
  if (!shape_of(m, shape, stride, &t))
    return false;
  int64_t last = offset->number, span;
  bool fits = true;
  for (int k = 0; fits && t.count > 0 && k < t.rank; k++)
    fits = !__builtin_mul_overflow(t.shape[k] - 1, t.stride[k], &span) &&
           !__builtin_add_overflow(last, span, &last);
  if (!fits || (t.count > 0 && last >= storage->length))
    return FAIL(m, "a tensor that reaches over its storage of %lld elements", (long long)storage->length);
  if (t.count > (int64_t)(m->archive->bytes / (size_t)ebb_pt_storages[t.type].bytes))
    return FAIL(m,
                "a tensor of %lld elements, which its strides make of a file of %zu bytes: expected no more "
                "than the file has room for (save a copy: tensor.contiguous())",
                (long long)t.count, m->archive->bytes);
  t.data =
      (const uint8_t *)storage->text + (t.count > 0 ? offset->number * ebb_pt_storages[t.type].bytes : 0);
  ebb_pt *pt = m->pt;
  if (pt->count == EBB_PT_TENSORS)
    return FAIL(m, "more than %d tensors", EBB_PT_TENSORS);
  if (pt->count == m->tensor_room) {
    m->tensor_room = m->tensor_room > 0 ? 2 * m->tensor_room : 16;
    pt->tensors = ebb_must(realloc(pt->tensors, (size_t)m->tensor_room * sizeof *pt->tensors));
  }
  pt->tensors[pt->count] = t;
  m->stack.count -= 2;
  return push_value(m, (value){.is = TENSOR, .number = pt->count++});
}

static bool reduce(machine *m) {
  const value *arguments = peek(m, 0), *function = peek(m, 1);
  if (function == NULL || function->is != GLOBAL || arguments->is != TUPLE)
    return FAIL(m, "REDUCE of %s: expected a global and a tuple",
                function == NULL ? "nothing" : kind_names[function->is]);
  if (function->number == REBUILD_TENSOR)
    return make_tensor(m, arguments);
  if (function->number != ORDERED_DICT || arguments->length != 0)
    return FAIL(m, "a call of %s, which is not read",
                function->number == ORDERED_DICT ? "OrderedDict with arguments" : "a storage");
  m->stack.count -= 2;
  return push_value(m, (value){.is = DICT, .first = -1});
}

/* ---- opcodes ------------------------------------------------------------------------------------------- */

/* The next `bytes` bytes; NULL: the pickle ends before. */
static const uint8_t *take(machine *m, uint64_t bytes) {
  if (bytes > (uint64_t)(m->end - m->at)) {
    (void)FAIL(m, "the pickle ends inside an opcode");
    return NULL;
  }
  const uint8_t *p = m->at;
  m->at += bytes;
  return p;
}

/* Little-endian unsigned number of `bytes` bytes. */
static bool take_number(machine *m, int bytes, uint64_t *to) {
  const uint8_t *p = take(m, (uint64_t)bytes);
  *to = 0;
  for (int i = 0; p != NULL && i < bytes; i++)
    *to |= (uint64_t)p[i] << 8 * i;
  return p != NULL;
}

/* A line without its end. */
static const char *take_line(machine *m, int64_t *length) {
  const uint8_t *p = m->at, *stop = memchr(p, '\n', (size_t)(m->end - p));
  if (stop == NULL) {
    (void)FAIL(m, "the pickle ends inside a line");
    return NULL;
  }
  *length = stop - p;
  m->at = stop + 1;
  return (const char *)p;
}

static bool text(machine *m, int length_bytes) {
  uint64_t length;
  if (!take_number(m, length_bytes, &length))
    return false;
  const uint8_t *p = take(m, length);
  return p != NULL && push_value(m, (value){.is = TEXT, .text = (const char *)p, .length = (int64_t)length});
}

static bool integer(machine *m, int bytes, bool is_signed) {
  uint64_t v;
  if (!take_number(m, bytes, &v))
    return false;
  if (is_signed && bytes > 0 && bytes < 8 && v >> (8 * bytes - 1))
    v |= ~(uint64_t)0 << 8 * bytes;
  return push_integer(m, (int64_t)v);
}

static bool long1(machine *m) {
  uint64_t bytes;
  if (!take_number(m, 1, &bytes))
    return false;
  return bytes <= 8 ? integer(m, (int)bytes, true) : FAIL(m, "an integer of %d bytes", (int)bytes);
}

/* INT of protocol 1: digits, or 00 and 01 for the booleans. */
static bool decimal(machine *m) {
  int64_t length;
  const char *line = take_line(m, &length);
  if (line == NULL)
    return false;
  if (is_text(line, length, "00") || is_text(line, length, "01"))
    return push_value(m, (value){.is = BOOLEAN, .number = line[1] == '1'});
  int64_t digits = length > 0 && line[length - 1] == 'L' ? length - 1 : length, v = 0;
  for (int64_t i = 0; i < digits; i++)
    if (line[i] < '0' || line[i] > '9' || __builtin_mul_overflow(v, 10, &v) ||
        __builtin_add_overflow(v, line[i] - '0', &v))
      return FAIL(m, "an integer that is no number of 64 bits");
  return digits > 0 ? push_integer(m, v) : FAIL(m, "an integer without digits");
}

static bool remember(machine *m, uint64_t place) {
  if (peek(m, 0) == NULL || place >= VALUES)
    return FAIL(m, "a memo of nothing, or at place %llu", (unsigned long long)place);
  while ((uint64_t)m->memo.count <= place)
    if (!push(m, &m->memo, -1))
      return false;
  m->memo.items[place] = m->stack.items[m->stack.count - 1];
  return true;
}

static bool put(machine *m, int bytes) {
  uint64_t place;
  return take_number(m, bytes, &place) && remember(m, place);
}

static bool get(machine *m, int bytes) {
  uint64_t place;
  if (!take_number(m, bytes, &place))
    return false;
  if (place >= (uint64_t)m->memo.count || m->memo.items[place] < 0)
    return FAIL(m, "memo %llu, which was not set", (unsigned long long)place);
  return push(m, &m->stack, m->memo.items[place]);
}

static bool global(machine *m) {
  int64_t module_length, length;
  const char *module = take_line(m, &module_length), *name = module ? take_line(m, &length) : NULL;
  return name != NULL && push_global(m, module, module_length, name, length);
}

static bool stack_global(machine *m) {
  const value *name = peek(m, 0), *module = peek(m, 1);
  if (module == NULL || name->is != TEXT || module->is != TEXT)
    return FAIL(m, "STACK_GLOBAL without two strings");
  m->stack.count -= 2;
  return push_global(m, module->text, module->length, name->text, name->length);
}

/* The names of opcodes that a pickle of something else is likely to have, for messages. */
static const char *opcode_name(uint8_t op) {
  static const struct {
    uint8_t op;
    const char *name;
  } names[] = {{'N', "NONE"},       {'G', "BINFLOAT"}, {'F', "FLOAT"},
               {']', "EMPTY_LIST"}, {'l', "LIST"},     {'e', "APPENDS"},
               {'a', "APPEND"},     {'b', "BUILD"},    {'i', "INST"},
               {'o', "OBJ"},        {0x81, "NEWOBJ"},  {0x92, "NEWOBJ_EX"},
               {'P', "PERSID"},     {0x82, "EXT1"},    {0x83, "EXT2"},
               {0x84, "EXT4"},      {'B', "BINBYTES"}, {'C', "SHORT_BINBYTES"},
               {0x8f, "EMPTY_SET"}, {0x8b, "LONG4"},   {'S', "STRING"},
               {'V', "UNICODE"},    {'0', "POP"},      {'2', "DUP"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].op == op)
      return names[i].name;
  return "of unknown name";
}

/* One opcode but STOP. */
static bool step(machine *m, uint8_t op) {
  uint64_t ignored;
  int32_t above;
  switch (op) {
  case 0x80: /* PROTO */
    return take_number(m, 1, &ignored) && (ignored <= 5 || FAIL(m, "pickle protocol %d", (int)ignored));
  case 0x95: /* FRAME */
    return take_number(m, 8, &ignored);
  case '(': /* MARK */
    return push_value(m, (value){.is = MARK});
  case 'K': /* BININT1 */
    return integer(m, 1, false);
  case 'M': /* BININT2 */
    return integer(m, 2, false);
  case 'J': /* BININT */
    return integer(m, 4, true);
  case 0x8a: /* LONG1 */
    return long1(m);
  case 'I': /* INT */
  case 'L': /* LONG */
    return decimal(m);
  case 0x88: /* NEWTRUE */
  case 0x89: /* NEWFALSE */
    return push_value(m, (value){.is = BOOLEAN, .number = op == 0x88});
  case 'X': /* BINUNICODE */
  case 'T': /* BINSTRING */
    return text(m, 4);
  case 0x8c: /* SHORT_BINUNICODE */
  case 'U':  /* SHORT_BINSTRING */
    return text(m, 1);
  case 0x8d: /* BINUNICODE8 */
    return text(m, 8);
  case 'c': /* GLOBAL */
    return global(m);
  case 0x93: /* STACK_GLOBAL */
    return stack_global(m);
  case ')': /* EMPTY_TUPLE */
    return make_tuple(m, 0, 0);
  case 0x85: /* TUPLE1, 2, 3 */
  case 0x86:
  case 0x87:
    return make_tuple(m, op - 0x84, 0);
  case 't': /* TUPLE */
    return make_tuple(m, above_mark(m), 1);
  case '}': /* EMPTY_DICT */
    return push_value(m, (value){.is = DICT, .first = -1});
  case 's': /* SETITEM */
    return set_items(m, 2, 0);
  case 'u': /* SETITEMS */
    above = above_mark(m);
    return set_items(m, above, 1);
  case 'q': /* BINPUT */
    return put(m, 1);
  case 'r': /* LONG_BINPUT */
    return put(m, 4);
  case 0x94: /* MEMOIZE */
    return remember(m, (uint64_t)m->memo.count);
  case 'h': /* BINGET */
    return get(m, 1);
  case 'j': /* LONG_BINGET */
    return get(m, 4);
  case 'Q': /* BINPERSID */
    return make_storage(m);
  case 'R': /* REDUCE */
    return reduce(m);
  default:
    return FAIL(m,
                "opcode 0x%02x (%s): a file of tensors in dicts and tuples does not have it, and nothing "
                "else is read",
                op, opcode_name(op));
  }
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* Names the tensors below a value by the way to them. What is reached twice keeps its first name. */
static bool name_tensors(machine *m, int32_t number, const char *name, int depth) {
  const value *v = &m->values[number];
  char below[NAME];
  if (++m->visited > VALUES || depth > DEPTH)
    return FAIL(m, "dicts and tuples more than %d deep, or of more than %d values", DEPTH, VALUES);
  if (v->is == TENSOR && m->pt->tensors[v->number].name == NULL)
    m->pt->tensors[v->number].name = ebb_format("%s", name);
  const char *slash = name[0] != '\0' ? "/" : "";
  for (int64_t i = 0; v->is == TUPLE && i < v->length; i++) {
    snprintf(below, sizeof below, "%.400s%s%lld", name, slash, (long long)i);
    if (!name_tensors(m, m->items.items[v->first + i], below, depth + 1))
      return false;
  }
  for (int32_t p = v->is == DICT ? v->first : -1; p >= 0; p = m->pairs[p].next) {
    const value *key = &m->values[m->pairs[p].key];
    if (key->is == TEXT)
      snprintf(below, sizeof below, "%.300s%s%.*s", name, slash, (int)(key->length < 100 ? key->length : 100),
               key->text);
    else
      snprintf(below, sizeof below, "%.400s%s%lld", name, slash, (long long)key->number);
    if (!name_tensors(m, m->pairs[p].value, below, depth + 1))
      return false;
  }
  return true;
}

/* Tensors that were built and are not in the result have no name; they go. */
static void drop_nameless(ebb_pt *pt) {
  int64_t kept = 0;
  for (int64_t i = 0; i < pt->count; i++)
    if (pt->tensors[i].name != NULL)
      pt->tensors[kept++] = pt->tensors[i];
  pt->count = kept;
}

bool ebb_pt_unpickle(ebb_pt *pt, const ebb_pt_archive *archive, const ebb_pt_entry *pickle, ebb_error *err) {
  machine m = {.archive = archive,
               .pt = pt,
               .start = pickle->data,
               .at = pickle->data,
               .end = pickle->data + pickle->bytes,
               .err = err};
  bool ok = true, stopped = false;
  while (ok && !stopped) {
    const uint8_t *op = take(&m, 1);
    ok = op != NULL;
    stopped = ok && *op == '.';
    if (ok && !stopped)
      ok = step(&m, *op);
  }
  if (ok && (m.stack.count != 1 || peek(&m, 0)->is == MARK))
    ok = FAIL(&m, "the pickle leaves %d values, expected one", m.stack.count);
  ok = ok && name_tensors(&m, m.stack.items[0], "", 0);
  drop_nameless(pt);
  if (ok && pt->count == 0)
    ok = FAIL(&m, "no tensor in the file");
  free(m.values);
  free(m.pairs);
  free(m.stack.items);
  free(m.items.items);
  free(m.memo.items);
  return ok;
}
