/* Every operator once more, in float64, as loops over its formula in kernels/ops.h: slow, obvious, and
 * written without a look at the backends. t[i] are the case's tensors; outputs are filled. */
#ifndef EBB_TESTS_OP_TRUTH_H
#define EBB_TESTS_OP_TRUTH_H

#include "tests/op_cases.h"

void truth_linear(const op_case *k, double *const *t);
void truth_norm_modulate(const op_case *k, double *const *t);
void truth_gate_add_norm(const op_case *k, double *const *t);
void truth_gate_add_layer_norm(const op_case *k, double *const *t);
void truth_qk_norm_rope(const op_case *k, double *const *t);
void truth_channel_norm(const op_case *k, double *const *t);
void truth_rms_norm(const op_case *k, double *const *t);
void truth_timestep_embedding(const op_case *k, double *const *t);
void truth_attention(const op_case *k, double *const *t);
void truth_attention_weights(const op_case *k, double *const *t);
void truth_projected_values(const op_case *k, double *const *t);
void truth_attention_relative(const op_case *k, double *const *t);
void truth_gated(const op_case *k, double *const *t);
void truth_gate_add(const op_case *k, double *const *t);
void truth_axpby(const op_case *k, double *const *t);
void truth_convert(const op_case *k, double *const *t);
void truth_activate(const op_case *k, double *const *t);
void truth_add_table(const op_case *k, double *const *t);
void truth_channel_affine(const op_case *k, double *const *t);
void truth_clamp(const op_case *k, double *const *t);
void truth_perturb(const op_case *k, double *const *t);
void truth_add_noise(const op_case *k, double *const *t);
void truth_replace_heads(const op_case *k, double *const *t);
void truth_patchify(const op_case *k, double *const *t);
void truth_unpatchify(const op_case *k, double *const *t);
void truth_conv3d_causal(const op_case *k, double *const *t);
void truth_downsample_space(const op_case *k, double *const *t);
void truth_downsample_time(const op_case *k, double *const *t);
void truth_upsample_space(const op_case *k, double *const *t);
void truth_upsample_time(const op_case *k, double *const *t);
void truth_pool_mean(const op_case *k, double *const *t);
void truth_pool_frames(const op_case *k, double *const *t);
void truth_pool_moments(const op_case *k, double *const *t);
void truth_pool_motion(const op_case *k, double *const *t);
void truth_gram(const op_case *k, double *const *t);
void truth_matmul(const op_case *k, double *const *t);
void truth_add_diagonal(const op_case *k, double *const *t);
void truth_spd_inverse(const op_case *k, double *const *t);

#endif
