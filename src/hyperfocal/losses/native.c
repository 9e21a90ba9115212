/* The elementwise work of focal loss and binary cross-entropy, in one pass over a chunk of logits.

   For every logit z, with p = sigmoid(z) and f(z) = p^gamma * softplus(z):

       rows[i] = sum over the row of  weight * f(z),  at positives  weight' * f(-z),  at masked pairs  0
       z      <- its derivative,      weight * f'(z),               -weight' * f'(-z),                0
       f'(z)   = p^gamma * (gamma * (1 - p) * softplus(z) + p)

   Tiling: a row per thread, 16 logits at a time in registers. Memory: the logits are read and written once.
   Cost: one exponential, one logarithm and one division per logit, as polynomials, so that the compiler
   vectorises them; relative error below 1e-6. Its eager twin is `focal.focal_with_slope`. No fast-math:
   NaN stays NaN. */
#include <stdint.h>
#include <string.h>

#define LANES 16

static inline float exp_of_negative(float x) { /* exp(x), x <= 0, by 2^k * polynomial (Cephes expf) */
  x = x < -87.0f ? -87.0f : x;
  const float k = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounded to an integer */
  const float r = x - k * 0.693359375f + k * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const int32_t bits = (int32_t)((uint32_t)((k == k ? (int32_t)k : 0) + 127) << 23);
  float power;
  memcpy(&power, &bits, sizeof power);
  return y * power;
}

static inline float log1p_of_share(float e) { /* log(1 + e), 0 <= e <= 1: Chebyshev fit of log(1 + e) / e */
  float y = 2.037690510e-03f;
  y = y * e - 1.344483102e-02f;
  y = y * e + 4.155762259e-02f;
  y = y * e - 8.253533212e-02f;
  y = y * e + 1.242510293e-01f;
  y = y * e - 1.610863193e-01f;
  y = y * e + 1.989153748e-01f;
  y = y * e - 2.498739275e-01f;
  y = y * e + 3.333256918e-01f;
  y = y * e - 4.999998172e-01f;
  y = y * e + 9.999999993e-01f;
  return y * e;
}

static inline float pass(float *z, float offset, float gamma, int whole, float weight) { /* whole: gamma, or -1 */
  const float x = *z + offset;
  const float e = exp_of_negative(x < 0 ? x : -x);
  const float inverse = 1.0f / (1.0f + e);
  const float small = e * inverse;
  const float p = x < 0 ? small : inverse, q = x < 0 ? inverse : small;
  const float log1p = log1p_of_share(e);
  const float softplus = (x > 0 ? x : 0.0f) + log1p;
  float power;
  if (whole == 0) power = 1.0f;
  else if (whole == 1) power = p;
  else if (whole == 2) power = p * p;
  else if (whole == 3) power = p * p * p;
  else if (whole == 4) power = (p * p) * (p * p);
  else if (whole == 5) power = (p * p) * (p * p) * p;
  else power = exp_of_negative(-gamma * ((x < 0 ? -x : 0.0f) + log1p));
  power *= weight;
  *z = power * (gamma * q * softplus + p);
  return power * softplus;
}

static inline float run(float *z, const float *offset, int64_t length, float gamma, int whole, float weight) {
  float sums[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES)
    for (int lane = 0; lane < LANES; lane++) sums[lane] += pass(z + i + lane, offset[i + lane], gamma, whole, weight);
  for (int lane = 0; i < length; i++, lane++) sums[lane] += pass(z + i, offset[i], gamma, whole, weight);
  double total = 0;
  for (int lane = 0; lane < LANES; lane++) total += sums[lane];
  return (float)total;
}

/* A separate loop for each common gamma. */
static float negatives(float *z, const float *offset, int64_t length, float gamma, float weight) {
  if (gamma == 0) return run(z, offset, length, 0.0f, 0, weight);
  if (gamma == 1) return run(z, offset, length, 1.0f, 1, weight);
  if (gamma == 2) return run(z, offset, length, 2.0f, 2, weight);
  if (gamma == 3) return run(z, offset, length, 3.0f, 3, weight);
  if (gamma == 4) return run(z, offset, length, 4.0f, 4, weight);
  if (gamma == 5) return run(z, offset, length, 5.0f, 5, weight);
  return run(z, offset, length, gamma, -1, weight);
}

static float positive(float *z, float offset, float gamma, float weight) { /* pos(z) = weight * f(-z) */
  float slope = -(*z + offset);
  const float zero = 0, value = negatives(&slope, &zero, 1, gamma, weight);
  *z = -slope;
  return value;
}

typedef struct {
  const int64_t *ids, *end; /* the rest of a row's ascending label ids */
} List;

static List list_from(const int64_t *indptr, const int64_t *indices, int64_t row, int64_t first) {
  if (!indptr) return (List){0, 0};
  const int64_t *low = indices + indptr[row], *high = indices + indptr[row + 1];
  const List list = {low, high};
  List rest = list;
  while (low < high) { /* the first id that is not below `first` */
    const int64_t *middle = low + (high - low) / 2;
    if (*middle < first) low = middle + 1;
    else high = middle;
  }
  rest.ids = low;
  return rest;
}

/* z: a chunk of hidden @ weight.T, (batch, length), for the labels from `first` on. `offset`, one number per label, is
   added to give the logits. Positives and masked pairs are CSR with ascending ids. The `masked` pointers may be null,
   and so may `label_weight`, a factor for each label's positives. */
void hyperfocal_focal(float *z, float *rows, const float *offset, int64_t batch, int64_t length, int64_t first, float gamma,
                      float negative_weight, float positive_weight, const float *label_weight,
                      const int64_t *indptr, const int64_t *indices, const int64_t *masked_indptr,
                      const int64_t *masked_indices, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (batch * length > 32768)
  for (int64_t i = 0; i < batch; i++) {
    float *const row = z + i * length;
    List right = list_from(indptr, indices, i, first), masked = list_from(masked_indptr, masked_indices, i, first);
    int64_t done = 0;
    double total = 0;
    while (done < length) { /* the negatives up to the next positive or masked pair, then that pair; ids that do not ascend are skipped */
      while (right.ids < right.end && *right.ids - first < done) right.ids++;
      while (masked.ids < masked.end && *masked.ids - first < done) masked.ids++;
      const int64_t next_right = right.ids < right.end ? *right.ids - first : length;
      const int64_t next_masked = masked.ids < masked.end ? *masked.ids - first : length;
      const int64_t next = next_right < next_masked ? next_right : next_masked;
      const int64_t stop = next < length ? next : length;
      total += negatives(row + done, offset + first + done, stop - done, gamma, negative_weight);
      if (stop < length) {
        if (next == next_masked) {
          row[stop] = 0.0f;
          masked.ids++;
        } else {
          total += positive(row + stop, offset[first + stop], gamma, positive_weight * (label_weight ? label_weight[first + stop] : 1.0f));
        }
        if (next == next_right) right.ids++;
      }
      done = stop + 1;
    }
    rows[i] = (float)total;
  }
}
