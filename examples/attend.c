/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps the keys and values of 1,000 tokens in 4 bits, attends one query to them, and compares with
 * exact attention. Build: cc -std=c11 attend.c $(pkg-config --cflags --libs polarquant) -lm */
#include <math.h>
#include <polarquant/polarquant.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 1000, KV_HEADS = 2, Q_HEADS = 4, DIM = 128, ROW = KV_HEADS * DIM, THREADS = 2 };
static const float LARGEST_DIFFERENCE = 0.03f; /* outputs are 0.06 on average */

static float keys[TOKENS][ROW], values[TOKENS][ROW];
static float query[Q_HEADS][DIM], exact[Q_HEADS][DIM], output[Q_HEADS][DIM];

static void check(pq_status status) {
  if (status == PQ_OK) return;
  fprintf(stderr, "polarquant: error %d: %s\n", (int)status, pq_last_error());
  exit(2);
}

/* Gaussian, by Box and Muller, from a generator that is the same everywhere. */
static float gaussian(void) {
  static uint64_t state = 1;
  double uniform[2];
  for (int i = 0; i < 2; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    uniform[i] = ((double)(state >> 11) + 0.5) / 9007199254740992.0;
  }
  return (float)(sqrt(-2.0 * log(uniform[0])) * cos(6.283185307179586 * uniform[1]));
}

/* softmax(scale * q K^T) V in plain C, in double precision. */
static void attend_exactly(float scale) {
  for (int h = 0; h < Q_HEADS; ++h) {
    const int first = h / (Q_HEADS / KV_HEADS) * DIM; /* channel of the head's keys and values */
    double sum = 0.0, mean[DIM] = {0.0};
    for (int t = 0; t < TOKENS; ++t) {
      double logit = 0.0;
      for (int i = 0; i < DIM; ++i) logit += (double)query[h][i] * (double)keys[t][first + i];
      const double weight = exp((double)scale * logit);
      sum += weight;
      for (int i = 0; i < DIM; ++i) mean[i] += weight * (double)values[t][first + i];
    }
    for (int i = 0; i < DIM; ++i) exact[h][i] = (float)(mean[i] / sum);
  }
}

int main(void) {
  for (int t = 0; t < TOKENS; ++t) {
    for (int i = 0; i < ROW; ++i) keys[t][i] = gaussian(), values[t][i] = gaussian();
  }
  for (int i = 0; i < Q_HEADS * DIM; ++i) query[i / DIM][i % DIM] = gaussian();

  pq_sequence_cache_config config = PQ_SEQUENCE_CACHE_CONFIG_INIT;
  config.key_scheme = "turbo4:center";
  config.value_scheme = "turbo4";
  config.key_head_dim = config.value_head_dim = DIM;
  config.num_kv_heads = KV_HEADS;
  pq_sequence_cache* cache = NULL;
  check(pq_sequence_cache_create(&config, &cache));

  pq_rows rows = PQ_ROWS_INIT; /* f32, [token][head][channel] */
  rows.row_stride = ROW;
  rows.head_stride = DIM;
  pq_rows key_rows = rows, value_rows = rows;
  key_rows.data = keys;
  value_rows.data = values;
  check(pq_sequence_cache_append(cache, &key_rows, &value_rows, TOKENS, THREADS));
  check(pq_sequence_cache_settle(cache, THREADS)); /* the newest 128 and first 16 stay exact */

  pq_attention call = PQ_ATTENTION_INIT;
  call.sequence = cache;
  call.num_q_heads = Q_HEADS;
  call.num_queries = 1;
  call.queries = query[0];
  call.query_stride = Q_HEADS * DIM;
  call.query_head_stride = DIM;
  call.scale = 1.0f / sqrtf((float)DIM);
  call.output = output[0];
  call.output_stride = Q_HEADS * DIM;
  call.output_head_stride = DIM;
  check(pq_attend(&call, THREADS));

  attend_exactly(call.scale);
  float difference = 0.0f;
  for (int i = 0; i < Q_HEADS * DIM; ++i) {
    difference = fmaxf(difference, fabsf(output[i / DIM][i % DIM] - exact[i / DIM][i % DIM]));
  }
  pq_memory_use memory = PQ_MEMORY_USE_INIT;
  check(pq_sequence_cache_memory(cache, &memory));
  printf("%.2f bits a value, %lld of %d tokens exact, largest difference %.4f (at most %.4f)\n",
         16.0 * (double)memory.total_bytes / (double)memory.f16_bytes,
         (long long)memory.exact_cells / 2, TOKENS, (double)difference, (double)LARGEST_DIFFERENCE);
  check(pq_sequence_cache_destroy(cache));
  return difference <= LARGEST_DIFFERENCE ? 0 : 1;
}
