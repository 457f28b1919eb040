/* The built-in worlds: small movies of bodies that move and bounce under gravity, pass behind an occluder,
 * and either keep the laws or break them where nobody can see it.
 *
 * A scene fixes camera, light, sky, ground, occluder and the bodies' paths. Two lawful courses A and B of the
 * scene are chosen so that every body in which they differ is fully hidden, and the frames are equal byte for
 * byte, during an interval of at least EBB_SYNTH_HIDDEN_MIN frames around the cut k. A quadruplet is then
 *     possible   P1 = A[0..F)           P2 = B[0..F)
 *     impossible I1 = A[0..k) + B[k..F) I2 = B[0..k) + A[k..F)
 * so both pairs consist of exactly the same frames (Riochet et al., IntPhys, arXiv 1803.07616).
 *     O1 object permanence           A: the body is there,        B: it is not
 *     O2 shape constancy             A: one shape,                B: another, same path, colour and size
 *     O3 spatio-temporal continuity  A: the body crosses one way, B: it crosses the other way, another bounce
 *
 * The lawful world for training: possible movies alone. The lawless world: the frames of a lawful movie in
 * random order - every frame is one of the lawful world, nothing follows from anything.
 *
 * Everything is a pure function of (seed, category, scene number), integer or IEEE basic arithmetic and sqrt
 * only: the same bytes on every machine and for any number of threads. */
#ifndef EBB_LOADERS_SYNTH_H
#define EBB_LOADERS_SYNTH_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stdint.h>

#define EBB_SYNTH_HIDDEN_MIN 3

typedef struct ebb_synth_options {
  uint64_t seed;
  int size;   /* pixels, height = width; 32..512; all lengths scale with it */
  int frames; /* 9..512; all times scale with it */
} ebb_synth_options;

/* Writes `quadruplets` scenes for each of O1, O2, O3 (`categories` is a subset of "O1,O2,O3") in the IntPhys
 * layout: dir/O1/01/1/scene/scene_001.png ... and dir/O1/01/1/status.json (full form: header and frames), the
 * four movies of a quadruplet in shuffled order. dir is created; it must be empty or absent. Errors: options
 * out of range, 1..9999 quadruplets, dir not empty, anything that writing can bring (disk full). */
bool ebb_synth_intphys(const char *dir, const char *categories, int quadruplets,
                       const ebb_synth_options *options, ebb_error *err);

/* The bulk form for training: one safetensors file with
 *   "video"     U8  [count, frames, size, size, 3]
 *   "category"  I64 [count]   1..3     "scene" I64 [count]     "course" I64 [count]  0 = A, 1 = B
 * of lawful or lawless movies number first .. first+count-1, 0 <= first, first+count <= 2^32. Categories and
 * courses take turns (movie m: category 1 + m % 3, course m / 3 % 2); each movie has a scene of its own, 2^32
 * + m, so none is a scene of the quadruplets (1 .. 9999) at the same seed. Written in order, through a
 * temporary name; memory does not grow with count. */
bool ebb_synth_bulk(const char *path, int64_t first, int64_t count, bool lawless,
                    const ebb_synth_options *options, ebb_error *err);

#endif
