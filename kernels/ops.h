/* THE CONTRACT: every operator, its formula and its shapes. ops.c checks shapes, dtypes and places once,
 * counts flops and bytes, and calls the context's backend; kernels/cpu/ is the definition in plain C. A
 * mistake is recorded in the context (kernels/context.h) and the op does nothing.
 *
 * Destination first, then inputs, weights, scalars. Letters: B batch, T frames, H height, W width, S tokens,
 * D width, N heads, P head width (D = N*P), C channels, M text tokens. Tokens of a video run (t, h, w), w
 * fastest. A destination never overlaps an input unless "in place" is said. Arguments that may be
 * EBB_NO_TENSOR say so. Results for one sample do not depend on the batch around it nor on the thread count.
 *
 * Tensors are float32 unless said otherwise. "Half" marks those that may be bfloat16 as well, where the
 * backend has it (the CPU has not): sums, statistics and what is done between a read and a write are float32
 * all the same. Statistics, modulation, norm weights, positions and pooled values are always float32.
 *
 * "Aligned" marks ops that want the data of all their tensors, on a device, at multiples of EBB_DATA_ALIGN
 * bytes: a tensor from an arena is, a slice of one need not be. The others take any address. */
#ifndef EBB_KERNELS_OPS_H
#define EBB_KERNELS_OPS_H

#include "kernels/context.h"

#define EBB_DATA_ALIGN 16

typedef enum ebb_activation { EBB_IDENTITY, EBB_SILU, EBB_GELU_TANH, EBB_RELU } ebb_activation;

/* ---- products: linear.c ------------------------------------------------------------------------------ */

/* y[..., n] = act( sum_k x[..., k] w[n, k] + b[n] ). y [..., n_out], x [..., n_in] (same leading dimensions),
 * w [n_out, n_in], b [n_out] or absent. Samples are the outermost dimension; with rank 1 or 2 every row is
 * one (embeddings [B, n_in]), so S rows of one sample are given as [1, S, n_in], which is also faster. Half:
 * x and w together; y as x or float32; b as y.
 * gelu_tanh(a) = a/2 (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3))), silu(a) = a / (1 + e^-a), relu(a) =
 * max(a, 0). */
void ebb_linear(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b, ebb_activation act);

/* ---- norms: norm.c ----------------------------------------------------------------------------------- */

/* Below, layer_norm(x) = (x - mean)/sqrt(var + eps) over the last dimension, var biased. */

/* The adaptive layer norm of diffusion transformers: y = layer_norm(x) * (1 + scale) + shift. x, y [B,S,D];
 * shift, scale [B,D], one vector per sample, or [1,D], the same for all. Half: x, y, each for itself. In
 * place allowed where x and y are of one dtype. */
void ebb_norm_modulate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor shift, ebb_tensor scale,
                       float eps);

/* The end of one sublayer and the start of the next: x <- x + gate * y, then h = layer_norm(x) * (1 + scale)
 * + shift. Bitwise what ebb_gate_add and then ebb_norm_modulate give, with x read and written once. h, x, y
 * [B,S,D]; gate as ebb_gate_add has it, or absent; shift, scale as ebb_norm_modulate has them. Half: h, x, y,
 * each for itself. */
void ebb_gate_add_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                       ebb_tensor shift, ebb_tensor scale, float eps);

/* The same before a norm with weights of its own: x <- x + gate * y, bitwise as ebb_gate_add has it, then h
 * = layer_norm(x) * w + b. w, b [D], both or neither absent (no norm: h = x). Half: h, x, y, each for
 * itself. */
void ebb_gate_add_layer_norm(ebb_context *c, ebb_tensor h, ebb_tensor x, ebb_tensor y, ebb_tensor gate,
                             ebb_tensor w, ebb_tensor b, float eps);

/* Queries and keys made ready, in place: RMS norm over all heads together, then rotary position. x being q
 * or k and w its weights, x[b,s,:] <- x / sqrt(mean(x^2) + eps) * w over D ("rms_norm_across_heads"); then,
 * in every head, pairs (2i, 2i+1): (u, v) <- (u cos - v sin, u sin + v cos) with cos, sin [S, P/2] (absent:
 * no rotation). q, k [B,S,D], wq, wk [D] or absent (no norm); k absent: q alone. Half: q and k together. */
void ebb_qk_norm_rope(ebb_context *c, ebb_tensor q, ebb_tensor k, ebb_tensor wq, ebb_tensor wk,
                      ebb_tensor cos, ebb_tensor sin, int heads, float eps);

/* The VAE's RMS norm over channels: y = act( x / max(||x||_2, 1e-12) * sqrt(C) * w ) over the last dimension.
 * x, y [..., C], w [C]. Half: x and y together. In place allowed. Aligned. */
void ebb_channel_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_activation act);

/* The RMS norm of text encoders, without mean and offset: y = x / sqrt(mean(x^2) + eps) * w over the last
 * dimension. x, y [..., D], w [D]. Half: x, y, each for itself. In place allowed where x and y are of one
 * dtype. */
void ebb_rms_norm(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, float eps);

/* ---- position: rope.c -------------------------------------------------------------------------------- */

/* Sinusoidal embedding of time labels: y[b, :] = [cos(t_b f_i) for i < F/2, sin(t_b f_i) for i < F/2], f_i =
 * 10000^(-2i/F) (diffusers get_timestep_embedding with flip_sin_to_cos, downscale_freq_shift 0). y [B,F], t
 * [B]; F even. */
void ebb_timestep_embedding(ebb_context *c, ebb_tensor y, ebb_tensor t);

/* ---- attention: attention.c -------------------------------------------------------------------------- */

/* What the map of a self- or cross-attention was like, without the map ever existing. Queries fall into Tq
 * frames of S/Tq tokens, keys into Tk frames. Each tensor may be absent. p is the softmax row of a query; the
 * spatial offsets are those of rows y and columns x in frames of S/T = H*W tokens, w fastest. */
typedef struct ebb_attention_stats {
  ebb_tensor mass; /* [B,N,Tq,Tk]: mean over the queries of a frame of the sum of p over the keys of a frame;
                      rows add to 1 */
  ebb_tensor entropy; /* [B,N,Tq]: mean over the queries of a frame of -sum p ln p, in nats */
  ebb_tensor lag;  /* [B,N,2T-1], T = Tq = Tk: mean over all queries of the sum of p over the keys whose frame
                         is i - (T-1) frames after the query's; adds to 1 */
  ebb_tensor rows; /* [B,N,H]: mean over all queries of the sum of p over the keys |y_key - y_query| = i rows
                         away, in any frame; adds to 1. With `columns` always: they say what H and W are */
  ebb_tensor columns; /* [B,N,W]: likewise |x_key - x_query| = i */
  ebb_tensor lse;     /* [B,N,S]: ln sum e^(q k' / sqrt(P)) of every query, in nats */
} ebb_attention_stats;

/* out = softmax(q k' / sqrt(P)) v per head. q, out [B,S,D], k, v [B,M,D] or [1,M,D], the same for all
 * samples, D = heads*P. stats NULL: none. The output is bitwise the same with and without stats. Half: q, k,
 * v, out together. Aligned.
 * rows and columns are means of what falls on each row and column, query by query; with half q those numbers
 * have been rounded to it.
 * The last key and its value stand for `repeats` equal ones (padded text): its weight is that many times
 * e^score. 1: a key like the others; with stats other than lse only 1. */
void ebb_attention(ebb_context *c, ebb_tensor out, const ebb_attention_stats *stats, ebb_tensor q,
                   ebb_tensor k, ebb_tensor v, int heads, int64_t repeats);

/* Attention to few keys, as padded text leaves them, in two smaller steps: the map itself, and the values
 * taken through the output projection beforehand, so that for W_out [D,D]
 *   linear(attention(q, k, v), W_out) = linear(attention_weights(q, k), projected_values(v, W_out))
 * with N*M instead of D columns in the product. */
#define EBB_FEW_KEYS 4 /* an empty prompt has 2: its one token, and what pads it */
/* M <= EBB_FEW_KEYS. p[b,s,n*M+m]: the softmax row over m of head n, `repeats` as in ebb_attention, of
 * queries that get their RMS norm over D on the way, as ebb_qk_norm_rope has it; w absent: they have had it.
 * p [B,S,N*M], q [B,S,D], k [B,M,D] or [1,M,D], w [D] or absent. Half: p, q, k together. Aligned. */
void ebb_attention_weights(ebb_context *c, ebb_tensor p, ebb_tensor q, ebb_tensor k, ebb_tensor w, int heads,
                           int64_t repeats, float eps);
/* u[d,n*M+m] = sum over j of head n of w[d,j] v[m,j]. u [D,N*M], v [1,M,D], w [D,D]. Half: u, v, w
 * together. */
void ebb_projected_values(ebb_context *c, ebb_tensor u, ebb_tensor v, ebb_tensor w, int heads);

/* Self-attention of a text encoder (T5; relative.c): no scale, a bias by how far the key is from the query.
 * Per head, out = softmax(q k' + bias) v with bias[n, m - s + S-1] for query s and key m. q, k, v, out
 * [B,S,D], D = heads*P, bias [N,2S-1]. Half: q, k, v, out together. */
void ebb_attention_relative(ebb_context *c, ebb_tensor out, ebb_tensor q, ebb_tensor k, ebb_tensor v,
                            ebb_tensor bias, int heads);

/* ---- between blocks: pointwise.c --------------------------------------------------------------------- */

/* x <- x + gate * y. x, y [B,S,D]; gate [B,D] or [1,D], the same for all samples; absent: 1. Half: x,
 * y, each for itself. */
void ebb_gate_add(ebb_context *c, ebb_tensor x, ebb_tensor y, ebb_tensor gate);
/* y = a x + b z, elementwise; z absent: y = a x. Same shapes. In place allowed (y may be x or z). */
void ebb_axpby(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor z);
/* y = x, in y's dtype: float32 and bfloat16, any to any. Same shapes. */
void ebb_convert(ebb_context *c, ebb_tensor y, ebb_tensor x);
/* y = act(x). Same shapes. In place allowed. */
void ebb_activate(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_activation act);
/* A gated linear unit: y = act(a) * b. Same shapes. Half: y, a, b together. In place allowed (y may be a or
 * b). */
void ebb_gated(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor b, ebb_activation act);
/* y[j, b, :] = table[j, :] + x[b, j, :] (x [B,J,D]) or x[b, :] (x [B,D], the same for every j). y [J,B,D]:
 * the vectors of one j are an outer slice. table [J,D]. */
void ebb_add_table(ebb_context *c, ebb_tensor y, ebb_tensor table, ebb_tensor x);
/* y[b,c,...] = x[b,c,...] * scale[c] + shift[c]. x, y [B,C,T,H,W]; scale, shift [C]. In place allowed. */
void ebb_channel_affine(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor scale, ebb_tensor shift);
/* y = min(max(x, low), high). In place allowed. */
void ebb_clamp(ebb_context *c, ebb_tensor y, ebb_tensor x, float low, float high);
/* Tokens of a video: y [B, S, C*pt*ph*pw] from x [B,C,T,H,W] with patch {pt,ph,pw}; S = (T/pt)(H/ph)(W/pw),
 * feature order (c, pt, ph, pw) as a Conv3d of that stride has it. T, H, W must be multiples. Half: y. */
void ebb_patchify(ebb_context *c, ebb_tensor y, ebb_tensor x, const int patch[3]);
/* The way back as Wan has it: x [B,C,T,H,W] from y [B, S, pt*ph*pw*C], feature order (pt, ph, pw, c). Half:
 * y. */
void ebb_unpatchify(ebb_context *c, ebb_tensor x, ebb_tensor y, const int patch[3]);

/* ---- interventions: edit.c --------------------------------------------------------------------------- */

/* x[b,s,:] <- x[b,s,:] + sigma (dose[b,0] e + dose[b,1] direction[b,:]), sigma the standard deviation of x[b,s,:] over
 * its D numbers (D - 1 in the denominator), e its own D standard normal numbers: those at s*D of
 * ebb_normal(keys[b], place << 32 | when) (kernels/normal.h), the same on every backend. A sample whose doses are both
 * 0 stays as it is, bit by bit. What changes between evaluations is in tensors, so that a recording can hold the op:
 * when [1] is a whole number from 0 to 2^24. x [B,S,D], dose [B,2], keys int64 [B], direction [B,D] or absent. Half:
 * x. */
void ebb_perturb(ebb_context *c, ebb_tensor x, ebb_tensor dose, ebb_tensor keys, ebb_tensor when,
                 ebb_tensor direction, int64_t place);
/* y = a x + b e, sample b's e from ebb_normal(keys[b], stream), number by number. In place allowed. x, y [B, ...]
 * alike, keys int64 [B]. */
void ebb_add_noise(ebb_context *c, ebb_tensor y, float a, ebb_tensor x, float b, ebb_tensor keys,
                   int64_t stream);
/* y = x with some heads replaced: source[b,n] is EBB_HEAD_KEPT; EBB_HEAD_ZERO; EBB_HEAD_MEAN: mean[b,:] at every token;
 * or the number of a sample, whose head n it then is. x, y [B,S,D], source int64 [B,N], D = N*P; mean [B,D], as
 * ebb_pool_mean gives it, or absent: then no head may be EBB_HEAD_MEAN. Half: x and y together. */
enum { EBB_HEAD_KEPT = -1, EBB_HEAD_ZERO = -2, EBB_HEAD_MEAN = -3 };
void ebb_replace_heads(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor mean, ebb_tensor source);

/* ---- video convolutions: conv3d.c -------------------------------------------------------------------- */

/* Videos inside the VAE have their channels last, [B,T,H,W,C]; weights keep the order of torch. Half, here
 * and below: all tensors but norm, and all of one dtype. Aligned, here and below, upsampling too. */

/* y = conv(a(x)) + b + residual, a(x) = silu(channel_norm(x) with weight norm), or x where norm is absent.
 * The convolution is causal, of stride 1, a cross-correlation as torch has it: zeros for kt-1 frames before
 * the first and none after, and (kh-1)/2, (kw-1)/2 zeros around (of a(x)); kh, kw odd. x [B,T,H,W,Ci], norm
 * [Ci] or absent, w [Co,Ci,kt,kh,kw], b [Co] or absent, residual as y or absent, y [B,T,H,W,Co]. A whole clip
 * at once equals the reference's chunks with caches. */
void ebb_conv3d_causal(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor norm, ebb_tensor w,
                       ebb_tensor b, ebb_tensor residual);
/* Halves height and width: per-frame 3x3 convolution of stride 2 with one zero row below and one zero column
 * right. x [B,T,H,W,Ci], w [Co,Ci,3,3], b [Co] or absent, y [B,T,floor((H-2)/2)+1,floor((W-2)/2)+1,Co]. H, W
 * >= 2. */
void ebb_downsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b);
/* Halves time as Wan's VAE does: y frame 0 is x frame 0, untouched; y frame 1+j = sum_k w[:,:,k] x[2j+k] + b,
 * k = 0..2. x [B,T,H,W,C] with T odd, w [C,C,3,1,1], b [C] or absent, y [B,(T+1)/2,H,W,C]. */
void ebb_downsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b);
/* Doubles height and width by repetition (nearest): y [B,T,2H,2W,C] from x [B,T,H,W,C]. */
void ebb_upsample_space(ebb_context *c, ebb_tensor y, ebb_tensor x);
/* Doubles time as Wan's VAE does: y frame 0 is x frame 0, untouched; for t >= 1, u = causal convolution (kt =
 * 3) of frames 1..T-1 of x alone (zeros before frame 1) with 2C outputs; y frame 2t-1 = first C channels of
 * u_t, y frame 2t = the other C. x [B,T,H,W,C], w [2C,C,3,1,1], b [2C] or absent, y [B,2T-1,H,W,C]. */
void ebb_upsample_time(ebb_context *c, ebb_tensor y, ebb_tensor x, ebb_tensor w, ebb_tensor b);

/* ---- pooling over tokens: pool.c --------------------------------------------------------------------- */

/* x [B,S,D], S a multiple of T, tokens of a frame together. The order of summation is fixed, never by who
 * comes first. Half: x. */
void ebb_pool_mean(ebb_context *c, ebb_tensor y, ebb_tensor x); /* y [B,D]: mean over tokens */
void ebb_pool_frames(ebb_context *c, ebb_tensor y,
                     ebb_tensor x); /* y [B,T,D]: mean over the tokens of each frame */
/* y [B,2,D]: second and third central moments over time of the frame means m_t: mean (m_t - m)^2, mean (m_t -
 * m)^3. */
void ebb_pool_moments(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames);
/* y [B,2,D]: mean over tokens of |x_{t+1} - x_t| and of |x_{t+1} - 2 x_t + x_{t-1}|, token by token of the
 * frame; 0 where there are too few frames. Zero for no motion, and not additive over frames. */
void ebb_pool_motion(ebb_context *c, ebb_tensor y, ebb_tensor x, int64_t frames);

/* ---- many small dense problems at once, float64: linalg.c ---------------------------------------------- */

/* g[b,i,j] = sum_k x[b,i,k] x[b,j,k]. x [B,n,d], g [B,n,n], symmetric, both triangles written. */
void ebb_gram(ebb_context *c, ebb_tensor g, ebb_tensor x);
/* y_b = a_b b_b: a [B,m,k], or [B,k,m] to be transposed; b [B,k,n], or [B,n,k] to be transposed; y
 * [B,m,n]. */
void ebb_matmul(ebb_context *c, ebb_tensor y, ebb_tensor a, bool transpose_a, ebb_tensor b, bool transpose_b);
/* y_b = a_b + shift_b I. y, a [B,n,n], shift [B]. In place allowed. */
void ebb_add_diagonal(ebb_context *c, ebb_tensor y, ebb_tensor a, ebb_tensor shift);
/* a_b <- a_b^-1, symmetric positive definite, both triangles read and written. a [B,n,n]. One that is not
 * positive definite becomes NaN throughout. */
void ebb_spd_inverse(ebb_context *c, ebb_tensor a);

/* ---- linear probes, many at once: solve.c, newton.c, adam.c ------------------------------------------ *
 * B designs are rows of common tables: rows [B,n] (int64) says which, and -1 is padding, so that designs of
 * fewer rows can stand beside others; z of padding is 0, and so is its label. Padding changes no result. K
 * label sets share a design. float64 but for x. */

/* mean[b,j], inverse[b,j]: of column j over the rows listed; the inverse of the deviation (n in the
 * denominator), 0 where the spread is within 1e-6 of the mean's size: a constant. x float32 [R,d]; mean,
 * inverse [B,d]. */
void ebb_column_scale(ebb_context *c, ebb_tensor mean, ebb_tensor inverse, ebb_tensor x, ebb_tensor rows);
/* z[b,i,j] = (x[rows[b,i],j] - mean[b,j]) inverse[b,j]. z [B,n,d], float64 or float32; x float32 [R,d]; mean
 * and inverse absent: z = x. */
void ebb_standardise(ebb_context *c, ebb_tensor z, ebb_tensor x, ebb_tensor rows, ebb_tensor mean,
                     ebb_tensor inverse);

/* Logistic regression in the dual. With g = z z' the margins of the trained rows are f = g a + b, and (a, b)
 * minimises sum log(1 + e^(-y f)) + lambda/2 a'g a, which is |w|^2 with w = z'a; a is one of those that have
 * the optimal w. Newton with line search until |gradient| in w and b is at most tolerance times scale, where
 * scale is the one at a = b = 0, or `least` where that is larger, and the last step moved no margin by more
 * than EBB_NEWTON_SETTLED, or for `steps` steps. A backend may find each step by conjugate gradients
 * preconditioned with the inverse of g + mu I: exact where all curvatures are lambda/mu. g, inverse = (g +
 * mu I)^-1 [B,n,n]; y [B,K,n], +1, -1, or 0 for padding; lambda, mu, least [B]; a [B,K,n], b [B,K] are read
 * (where to begin) and written; reached [B,K] is |gradient| / scale, or infinite where that is within
 * tolerance but the last step still moved a margin by more; sweeps [B,K] the number of products with g or
 * its inverse, or of steps. Columns of z have mean 0: g (1,..,1)' = 0. */
#define EBB_NEWTON_SETTLED 1e-4
typedef struct ebb_newton {
  double tolerance;
  int steps;
} ebb_newton;
void ebb_logistic_newton(ebb_context *c, ebb_tensor a, ebb_tensor b, ebb_tensor reached, ebb_tensor sweeps,
                         ebb_tensor g, ebb_tensor inverse, ebb_tensor y, ebb_tensor lambda, ebb_tensor mu,
                         ebb_tensor least, ebb_newton newton);
/* The most rows n that it takes: a device keeps vectors of n in fast memory of a fixed size. n is even
 * there. */
int64_t ebb_logistic_newton_rows(ebb_context *c);

/* Ridge regression from p = (z z' + lambda I)^-1: dual weights a = p (y - mean). Rows of a fold stand
 * together, k = n/F of them with padding. Leaving fold F out, the residuals are s^-1 a_F with
 * s[b,f] = p_FF - 1/(lambda n_b), the second term between rows that are no padding, n_b of them.
 * s [B,F,k,k], p [B,n,n], rows [B,n], lambda [B]. */
void ebb_fold_blocks(ebb_context *c, ebb_tensor s, ebb_tensor p, ebb_tensor rows, ebb_tensor lambda);
/* Labels of designs, centred: y[b,i,k] = labels[k, rows[b,i] mod N] - mean[b,k], mean over the rows listed, 0
 * at padding. labels float32 [K,N], y [B,n,K], mean [B,K]. */
void ebb_centred_labels(ebb_context *c, ebb_tensor y, ebb_tensor mean, ebb_tensor labels, ebb_tensor rows);
/* score[b,k] = correlation over rows of f = y - e with y (centred, padding 0); 0 where f does not vary,
 * NaN where e is not finite. explained: 1 - sum e^2 / sum y^2 instead, at least -1, 0 where y does not
 * vary. e, y [B,n,K], rows [B,n], score [B,K]. Where score > best: best = score, chosen = number, and
 * kept[b,:,k] = a[b,:,k]. best, chosen [B,K], kept, a [B,n,K]. */
void ebb_keep_best(ebb_context *c, ebb_tensor score, ebb_tensor best, ebb_tensor chosen, ebb_tensor kept,
                   ebb_tensor e, ebb_tensor y, ebb_tensor a, ebb_tensor rows, double number, bool explained);
/* f[b,i,k] += shift[b,k]; hits[b,k] = sum over rows of 2 where f has the sign of the label, 1 where f is 0. f
 * [B,t,K], shift, hits [B,K], labels float32 [K,N], rows [B,t]. */
void ebb_count_hits(ebb_context *c, ebb_tensor hits, ebb_tensor f, ebb_tensor shift, ebb_tensor labels,
                    ebb_tensor rows);

/* Logistic regression by Adam (Kingma & Ba 2015), float32, as PyTorch steps it: mean gradient of log(1 +
 * e^(-y f)) over a batch plus decay * w (intercept too), moments 0.9 and 0.999, eps 1e-8. One epoch goes
 * through the trained rows in the order given, `batch` at a time, the last batch smaller.
 * w [B,K,d+1] float32, intercept last: where to begin, then the fit. z [B,R,d] float32 all rows; y [B,K,R]
 * float32, +1 or -1, 0: padding. order [O,E,n] int64: row of z for every epoch, -1 at the end: padding; which
 * [B] int64: the order of a design. judged [B,2] int64: first validation row and one past the last; none: the
 * last epoch counts. Otherwise the epoch of the highest validation accuracy does, the first of them, and
 * `patience` epochs without a better one end it. epochs [B,K] int64: the epoch that counts, from 1. accuracy
 * [B,K] float32 on validation rows then (NaN: none). f [B,K,R] float32: margins of all rows by that fit. */
typedef struct ebb_adam {
  double rate, decay;
  int batch, patience;
} ebb_adam;
void ebb_logistic_adam(ebb_context *c, ebb_tensor w, ebb_tensor epochs, ebb_tensor accuracy, ebb_tensor f,
                       ebb_tensor z, ebb_tensor y, ebb_tensor order, ebb_tensor which, ebb_tensor judged,
                       ebb_adam adam);

#endif
