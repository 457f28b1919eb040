/* The feature store: what `ebb invert` leaves and `ebb probe` reads. A run folder holds
 *   index.json    videos (id, label, group, category, status, hash; pair, view, split, prompt, targets where
 *                 the data set knows them), models, features with shapes, shards with
 *                 hashes, provenance; written last, through a temporary name: without it a run is not
 *                 finished
 *   features/<model>/shard-00000.safetensors ...    one per batch of videos
 * A shard holds for each feature one F32 tensor [V, steps, ...] and "video" I64 [V], the numbers of its
 * videos in the index. Python:
 *   index = json.load(open(run + "/index.json"))
 *   x = load_file(run + "/" + index["shards"][0]["file"])["block_out.mean"] */
#ifndef EBB_LOADERS_STORE_H
#define EBB_LOADERS_STORE_H

#include "loaders/dataset.h"

#include <jansson.h>

#define EBB_FEATURE_RANK 6
#define EBB_STORE_LIST 4096 /* most steps, blocks or features of a set */
#define EBB_STORE_SETS 64   /* most sets of a run */

/* One kind of number kept for every video: "block_out.mean" [L,D], "attn_frames" [L,N,T,T], "latent.mean" [C]
 * ... at each captured step. */
typedef struct ebb_feature {
  char name[64];
  bool by_block; /* the first dimension after the step is the block */
  bool by_head;  /* the one after it is the head of attention; only with by_block */
  int rank;      /* of one video at one step */
  int64_t shape[EBB_FEATURE_RANK];
} ebb_feature;

/* What one model (the trained transformer, its random twin, ...) gives in a run. */
typedef struct ebb_feature_set {
  char model[64]; /* "transformer", "random", "transformer_lawless", "vae" */
  int step_count;
  int *steps;     /* captured step numbers, ascending */
  double *sigmas; /* sigma of the state at that step */
  int block_count;
  int *blocks; /* captured block numbers, ascending */
  int feature_count;
  ebb_feature *features;
} ebb_feature_set;

/* ---- writing: one thread at a time, but input, fail and failed may be called beside the others ---- */
typedef struct ebb_store_writer ebb_store_writer;
/* dir is created; one that holds an index.json already is an error (a finished run is never overwritten).
 * Shards found of an unfinished run are replaced. */
bool ebb_store_create(ebb_store_writer **w, const char *dir, const ebb_dataset *set, ebb_error *err);
/* Copies the set's description; returns its number in *id. Feature order is fixed from here. model becomes a
 * folder's name: letters, digits, '_', '-' and '.' (not first). */
bool ebb_store_declare(ebb_store_writer *w, const ebb_feature_set *set, int *id, ebb_error *err);
/* One shard; a video may come once per set: videos [V] are numbers in the data set; data[f] is f32 [V, steps,
 * feature shape]. Written, synced, renamed, hashed. */
bool ebb_store_write(ebb_store_writer *w, int set, int64_t count, const int64_t *videos,
                     const float *const *data, ebb_error *err);
/* Bytes of a shard of `count` videos. */
bool ebb_store_shard_bytes(const ebb_feature_set *set, int64_t count, uint64_t *bytes, ebb_error *err);
/* Records the SHA-256 of a video's decoded frames in the index. */
void ebb_store_input(ebb_store_writer *w, int64_t video, const char *sha256);
/* Marks a video as failed, with the reason; it is in the index and in no table. */
void ebb_store_fail(ebb_store_writer *w, int64_t video, const char *reason);
int64_t ebb_store_failed(ebb_store_writer *w); /* how many videos are marked so */
/* Writes index.json with `provenance` (an object, borrowed). Frees w in any case. */
bool ebb_store_finish(ebb_store_writer **w, json_t *provenance, ebb_error *err);
void ebb_store_abandon(ebb_store_writer **w);

/* ---- reading ---- */
typedef struct ebb_store_video {
  char *id, *group, *category;
  ebb_label label;
  char *failed;                       /* reason, or NULL */
  char *pair, *view, *split, *prompt; /* as of ebb_video: NULL when unknown */
  double *targets;                    /* [store.target_count], NaN: unknown */
} ebb_store_video;
typedef struct ebb_store {
  char *dir;
  int64_t video_count;
  ebb_store_video *videos;
  int target_count;
  char target_names[EBB_TARGETS_MAX][EBB_TARGET_NAME];
  const char *notice; /* of the data set, to be shown before a probe is trained on it; NULL: none */
  int set_count;
  ebb_feature_set *sets;
  json_t *index; /* the whole of index.json */
  struct ebb_store_shards *shards;
} ebb_store;
/* Errors: no index (an unfinished run: with what to do), a shard missing, of another size or hash, a feature
 * of another shape. Reads every shard once for its hash. */
bool ebb_store_open(ebb_store *store, const char *dir, ebb_error *err);
void ebb_store_close(ebb_store *store);
int ebb_store_find(const ebb_store *store, const char *model);       /* -1: not there */
int ebb_store_feature(const ebb_feature_set *set, const char *name); /* -1: not there */
bool ebb_store_has(const ebb_store *store, int set, int64_t video);  /* is it in a table of the set? */
/* Numbers of one video at one step (and block when by_block), of all its heads. */
int64_t ebb_store_width(const ebb_feature *feature);
int64_t ebb_store_heads(const ebb_feature *feature); /* N; 1 where there are none */
#define EBB_ALL_HEADS (-1)
/* x f32 [n, width]: the feature of videos[0..n) at step index `step` and, when by_block, block index
 * `block` (indices into the set's lists); or [n, width / heads] of head `head` alone. Errors: a video that
 * the set does not have, a shard that cannot be read. Any number of threads may gather from one store. */
bool ebb_store_gather(const ebb_store *store, int set, int feature, int step, int block, int head, int64_t n,
                      const int64_t *videos, float *x, ebb_error *err);

#endif
