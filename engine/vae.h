/* The video autoencoder: pixels <-> the latent that the transformer works in (normalised by latents_mean and
 * latents_std). */
#ifndef EBB_ENGINE_VAE_H
#define EBB_ENGINE_VAE_H

#include "engine/model.h"

typedef struct ebb_vae {
  ebb_context *context;
  const char *class_name;        /* _class_name in config.json: "AutoencoderKLWan" */
  int64_t channels;              /* z */
  int time_stride, space_stride; /* 4, 8 for Wan */
  int chunk;       /* clips have chunk*k + 1 frames: 4, whatever the stride, as diffusers cuts them */
  ebb_dtype dtype; /* of what runs between pixels and latents, which are float32 */
  int64_t parameters;
  char sha256[65]; /* of the weights, once ebb_digest_finish has put it here; "random:<seed>": initialised */
  ebb_digest *digest; /* NULL when counting or initialised */
  void *state;
} ebb_vae;

/* folder/config.json of class AutoencoderKLWan and its weights, to compute in `dtype`: float32, or bfloat16 where the
 * context has it; norms are float32 all the same. random_seed as in ebb_model_open. with_encoder / with_decoder: which
 * half is loaded; the other one's weights are checked only. Errors as ebb_model_open; the same holds for the weight
 * arena's memory. */
bool ebb_vae_open(ebb_vae *vae, ebb_context *c, const char *folder, ebb_dtype dtype,
                  const int64_t *random_seed, bool with_encoder, bool with_decoder, ebb_error *err);
void ebb_vae_close(ebb_vae *vae);
/* The latent of a video of F = chunk*k+1 frames; sides that the stride does not divide are rounded down, as
 * the convolutions do. Errors: F of another form, sides too small. */
bool ebb_vae_latent_shape(const ebb_vae *vae, int64_t frames, int64_t height, int64_t width,
                          ebb_latent_shape *shape, ebb_error *err);
/* latents [B,C,T,h,w] = (posterior mode - latents_mean)/latents_std of video [B,3,F,H,W] in [-1,1]; both
 * float32, here and below. */
void ebb_vae_encode(ebb_vae *vae, ebb_tensor latents, ebb_tensor video);
/* video [B,3,time_stride*(T-1)+1,space_stride*h,space_stride*w] in [-1,1] (clamped) from normalised latents
 * [B,C,T,h,w]. */
void ebb_vae_decode(ebb_vae *vae, ebb_tensor video, ebb_tensor latents);

#endif
