#include "loaders/prompt_text.h"

#include "loaders/file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ------------------------------------------------------------------------------------------- */

int ebb_utf8_next(const char *text, size_t bytes, size_t *at) {
  static const int least[] = {0, 0x80, 0x800, 0x10000};
  const unsigned char *p = (const unsigned char *)text + *at;
  const size_t left = bytes - *at;
  const int more = p[0] < 0x80 ? 0 : p[0] >= 0xC2 && p[0] < 0xE0 ? 1 : (p[0] & 0xF0) == 0xE0 ? 2 : 3;
  if (p[0] >= 0x80 && (p[0] < 0xC2 || p[0] > 0xF4))
    return -1;
  if ((size_t)more >= left)
    return -1;
  int c = more == 0 ? p[0] : p[0] & (0x3F >> more);
  for (int i = 1; i <= more; i++) {
    if ((p[i] & 0xC0) != 0x80)
      return -1;
    c = c << 6 | (p[i] & 0x3F);
  }
  if (c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
    return -1;
  *at += (size_t)more + 1;
  return c;
}

/* A growing text. */
typedef struct text_buffer {
  char *bytes;
  size_t count, capacity;
} text_buffer;

static void append(text_buffer *b, const char *bytes, size_t count) {
  if (b->count + count + 1 > b->capacity) {
    b->capacity = 2 * (b->count + count) + 64;
    b->bytes = ebb_must(realloc(b->bytes, b->capacity));
  }
  memcpy(b->bytes + b->count, bytes, count);
  b->count += count;
  b->bytes[b->count] = '\0';
}

static void append_character(text_buffer *b, int c) {
  char bytes[4];
  size_t n = 0;
  if (c < 0x80) {
    bytes[n++] = (char)c;
  } else if (c < 0x800) {
    bytes[n++] = (char)(0xC0 | c >> 6);
    bytes[n++] = (char)(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    bytes[n++] = (char)(0xE0 | c >> 12);
    bytes[n++] = (char)(0x80 | (c >> 6 & 0x3F));
    bytes[n++] = (char)(0x80 | (c & 0x3F));
  } else {
    bytes[n++] = (char)(0xF0 | c >> 18);
    bytes[n++] = (char)(0x80 | (c >> 12 & 0x3F));
    bytes[n++] = (char)(0x80 | (c >> 6 & 0x3F));
    bytes[n++] = (char)(0x80 | (c & 0x3F));
  }
  append(b, bytes, n);
}

/* ---- HTML character references ----------------------------------------------------------------------- */

/* The named references of the HTML standard, in order of name: "amp;", "amp", ... and what they stand for. */
typedef struct entity {
  const char *name, *text;
} entity;
static const entity entities[] = {
#include "loaders/html_entities.inc"
};
#define ENTITIES (sizeof entities / sizeof *entities)

static int by_name(const void *key, const void *item) {
  return strcmp(key, ((const entity *)item)->name);
}

static const char *entity_text(const char *name, size_t bytes) {
  char key[40];
  if (bytes >= sizeof key)
    return NULL;
  memcpy(key, name, bytes);
  key[bytes] = '\0';
  const entity *e = bsearch(key, entities, ENTITIES, sizeof *entities, by_name);
  return e ? e->text : NULL;
}

/* A numeric reference as the standard mends it: numbers of windows-1252's upper controls are what that code
 * page has there; surrogates and numbers beyond Unicode become U+FFFD; other controls and noncharacters
 * vanish. */
static void append_number(text_buffer *b, int number) {
  static const int windows[32] = {0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                  0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D,   0x017D, 0x8F,
                                  0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                  0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
  const bool control = (number >= 0x01 && number <= 0x08) || number == 0x0B ||
                       (number >= 0x0E && number <= 0x1F) || number == 0x7F;
  const bool nowhere = (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFE) == 0xFFFE;
  if (number >= 0x80 && number < 0xA0)
    append_character(b, windows[number - 0x80]);
  else if (number == 0 || number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF))
    append_character(b, 0xFFFD);
  else if (!control && !nowhere)
    append_character(b, number);
}

/* "#38;", "#x26": returns the bytes read, 0 when it is none. */
static size_t take_number(text_buffer *b, const char *p) {
  const bool hex = p[1] == 'x' || p[1] == 'X';
  size_t at = hex ? 2 : 1, first = at;
  int number = 0;
  for (;; at++) {
    const char c = p[at];
    const int digit = c >= '0' && c <= '9'          ? c - '0'
                      : hex && c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : hex && c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                    : -1;
    if (digit < 0)
      break;
    number = number > 0x110000 ? number : number * (hex ? 16 : 10) + digit;
  }
  if (at == first)
    return 0;
  append_number(b, number);
  return at + (p[at] == ';');
}

/* A name of up to 32 characters, with its semicolon or without, or the longest beginning of it that is one:
 * returns the bytes read, 0 when there is none. */
static size_t take_name(text_buffer *b, const char *p, size_t bytes) {
  size_t ends[33], count = 0, at = 0;
  ends[0] = 0;
  while (count < 32 && at < bytes && !strchr("\t\n\f <&#;", p[at]) && ebb_utf8_next(p, bytes, &at) >= 0)
    ends[++count] = at;
  const char *whole = count > 0 && at < bytes && p[at] == ';' ? entity_text(p, at + 1) : NULL;
  if (whole) {
    append(b, whole, strlen(whole));
    return at + 1;
  }
  for (size_t n = count; n > 1; n--) { /* names without a semicolon have two characters at least */
    const char *text = entity_text(p, ends[n]);
    if (text) {
      append(b, text, strlen(text));
      return ends[n];
    }
  }
  return 0;
}

static char *unescape(const char *text) {
  text_buffer b = {0};
  const size_t bytes = strlen(text);
  append(&b, "", 0);
  for (size_t at = 0; at < bytes;) {
    const char *p = text + at + 1;
    size_t taken = 0;
    if (text[at] == '&')
      taken = *p == '#' ? take_number(&b, p) : take_name(&b, p, bytes - at - 1);
    if (taken == 0)
      append(&b, text + at, 1);
    at += 1 + taken;
  }
  return b.bytes;
}

/* ---- white space, all together ----------------------------------------------------------------------- */

/* Unicode's White_Space, which is what \s of Python's regex module is. */
static bool is_space(int c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

/* What str.strip takes from the ends: the separators of ASCII as well. */
static bool is_stripped(int c) {
  return is_space(c) || (c >= 0x1C && c <= 0x1F);
}

static char *join_spaces(const char *text) {
  text_buffer b = {0};
  const size_t all = strlen(text);
  size_t begin = all, end = 0;
  for (size_t at = 0; at < all;) {
    const size_t first = at;
    if (is_stripped(ebb_utf8_next(text, all, &at)))
      continue;
    begin = first < begin ? first : begin;
    end = at;
  }
  append(&b, "", 0);
  for (size_t at = begin; at < end;) {
    const size_t first = at;
    if (!is_space(ebb_utf8_next(text, all, &at)))
      append(&b, text + first, at - first);
    else if (b.bytes[b.count - 1] != ' ')
      append(&b, " ", 1);
  }
  return b.bytes;
}

char *ebb_prompt_copy(const char *text, ebb_error *err) {
  text = text ? text : "";
  const size_t bytes = strnlen(text, EBB_PROMPT_BYTES + 1);
  if (bytes > EBB_PROMPT_BYTES) {
    ebb_fail(err, "a prompt has more than %zu bytes: expected a sentence or a few", EBB_PROMPT_BYTES);
    return NULL;
  }
  for (size_t at = 0; at < bytes;)
    if (ebb_utf8_next(text, bytes, &at) < 0) {
      ebb_fail(err, "a prompt is not UTF-8 at byte %zu: expected UTF-8 (convert it with iconv)", at);
      return NULL;
    }
  return ebb_format("%s", text);
}

char *ebb_prompt_clean(const char *text, ebb_error *err) {
  char *copy = ebb_prompt_copy(text, err);
  if (!copy)
    return NULL;
  char *once = unescape(copy), *twice = unescape(once), *clean = join_spaces(twice);
  free(twice);
  free(once);
  free(copy);
  return clean;
}

bool ebb_prompt_is_beyond_ascii(const char *text) {
  for (; text && *text; text++)
    if ((unsigned char)*text >= 0x7F || ((unsigned char)*text < 0x20 && !is_space((unsigned char)*text)))
      return true;
  return false;
}
