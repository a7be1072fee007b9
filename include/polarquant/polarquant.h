/* SPDX-License-Identifier: Apache-2.0 */
/* polarquant in C: codecs, pages, the cell store, the sequence cache and attention on the
 * compressed bytes. C11 and C++; docs/c.md is a guide, FORMAT.md has the bytes.
 *
 * Status. Every function returns a pq_status: 0, or the family of the error, and then
 * pq_last_error(), the one exception, says in words which value was seen, which are allowed and
 * what to do. What a function that failed has written is not to be used; a handle that was to be
 * created is NULL. Nothing is ever thrown into the caller.
 *
 * Handles. pq_NAME_create makes one, pq_NAME_destroy frees it; destroying NULL is fine. Texts given
 * in are copied. Pointers to codecs' facts live as long as the library, others are said.
 *
 * Threads. Functions without a handle, and functions whose handles are all const, may run at the
 * same time. A function with a handle that is not const must have that handle to itself. Different
 * handles never disturb each other, also where sequence caches share pages. Functions that take
 * num_threads (1 or more) use that many threads themselves, through OpenMP.
 *
 * Structs start with struct_size, which the caller sets to sizeof the struct (the PQ_..._INIT
 * values do that). Later versions append fields. A library that knows more fields than the caller
 * takes their defaults; one that knows fewer refuses those that are not 0.
 *
 * Shapes. head_dim is a multiple of 16 from 16 to 1024; page_tokens is 64, 128 or 256. Values are
 * f32 unless said otherwise; strides count values, not bytes, and are never negative. In rows
 * that come in NaN counts as 0, infinities and overflow as +-65504; caches round them to f16. Flags
 * are 0 or 1. Pages are aligned to PQ_PAGE_ALIGNMENT bytes: aligned_alloc(PQ_PAGE_ALIGNMENT,
 * page_bytes). */
#ifndef POLARQUANT_POLARQUANT_H
#define POLARQUANT_POLARQUANT_H

#include <stddef.h> /* NOLINT(modernize-deprecated-headers): this header is C */
#include <stdint.h> /* NOLINT(modernize-deprecated-headers): this header is C */

#if defined(__GNUC__)
#define PQ_API __attribute__((visibility("default")))
#else
#define PQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---------------------------------------------------------------------------------- */

typedef int32_t pq_status;
enum {
  PQ_OK = 0,
  PQ_ERROR_FORMAT = 10,      /* text or bytes that cannot be parsed */
  PQ_ERROR_CORRUPTION = 20,  /* bytes that parse but are damaged */
  PQ_ERROR_UNSUPPORTED = 30, /* a combination that is not implemented */
  PQ_ERROR_PARAMETER = 40,   /* a value outside its range, a null pointer, a wrong struct_size */
  PQ_ERROR_CAPACITY = 50,    /* memory, cells or threads exhausted */
  PQ_ERROR_HOST = 60,        /* the system said no, for instance to a file */
  PQ_ERROR_INTERNAL = 70     /* none of these: a mistake in polarquant */
};

/* What the last function that failed in this thread had to say, empty before the first. Valid until
 * the next failure in this thread; never NULL. */
PQ_API const char* pq_last_error(void);

/* ---- The library ----------------------------------------------------------------------------- */

#define PQ_VERSION_MAJOR 0
#define PQ_VERSION_MINOR 1
#define PQ_VERSION_PATCH 0

typedef struct pq_library_info {
  size_t struct_size;
  int32_t version_major, version_minor, version_patch; /* of the library that runs */
  int32_t reserved;
  const char* target; /* the kernels that run: "avx512", "avx2" or "scalar" */
} pq_library_info;
#define PQ_LIBRARY_INFO_INIT \
  { sizeof(pq_library_info), 0, 0, 0, 0, NULL }

/* PQ_ERROR_PARAMETER if the environment variable POLARQUANT_ISA names kernels that this CPU does
 * not run. */
PQ_API pq_status pq_library(pq_library_info* info);

/* ---- Codecs and schemes ---------------------------------------------------------------------- */

typedef int32_t pq_role;
enum { PQ_KEY = 0, PQ_VALUE = 1 };

typedef struct pq_codec_info {
  size_t struct_size;
  const char* name;     /* "turbo4" */
  const char* summary;  /* one line for people */
  const char* source;   /* the paper or format it implements */
  int32_t code_bits;    /* bits a value without scales and headers */
  int32_t keys, values; /* flags: may store them */
  int32_t rotates;      /* flag: rows are rotated unless the scheme says otherwise */
  int32_t scale_rules;  /* flag: scale= applies */
  int32_t normalises;   /* flag: center, balance and the like apply */
  size_t num_options;
} pq_codec_info;
#define PQ_CODEC_INFO_INIT \
  { sizeof(pq_codec_info), NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0 }

/* A setting of a codec, spelled name=value in a scheme. */
typedef struct pq_codec_option {
  size_t struct_size;
  const char* name;
  const char* summary;
  const char* values; /* what it takes: "1..7" or "halves|adjacent" */
  const char* usual;  /* if a scheme does not say */
} pq_codec_option;
#define PQ_CODEC_OPTION_INIT \
  { sizeof(pq_codec_option), NULL, NULL, NULL, NULL }

PQ_API pq_status pq_codec_count(size_t* count);
PQ_API pq_status pq_codec_at(size_t index, pq_codec_info* info);
PQ_API pq_status pq_codec_option_at(size_t codec, size_t index, pq_codec_option* option);

/* Schemes are spelled CODEC[:OPTION=VALUE...][:center|:balanced|...], for instance "turbo4:center";
 * polarquant/scheme.h has all of it. Writes the canonical spelling of `text` with its terminator
 * into spelling[capacity]. needed (may be NULL) becomes the bytes this takes; if they are more than
 * `capacity` that is PQ_ERROR_PARAMETER, and nothing is written. PQ_ERROR_FORMAT names the word
 * that is none. */
PQ_API pq_status pq_scheme_spelling(const char* text, char* spelling, size_t capacity,
                                    size_t* needed);
/* The same for "KEYS/VALUES", or one scheme for both: the spelling of one role. */
PQ_API pq_status pq_scheme_of_role(const char* pair, pq_role role, char* spelling, size_t capacity,
                                   size_t* needed);
/* needs_profile: flag, keys of this scheme need a pq_key_profile. */
PQ_API pq_status pq_scheme_needs_profile(const char* text, int32_t* needs_profile);
/* fast: flag, attention reads the codes with a kernel of their own (else they are decoded). */
PQ_API pq_status pq_scheme_has_fast_path(const char* text, int32_t head_dim, int32_t* fast);

/* ---- What is known of a layer's keys --------------------------------------------------------- */

typedef int32_t pq_rope_pairing; /* which channels RoPE turns together */
enum {
  PQ_ROPE_NONE = 0,     /* no RoPE */
  PQ_ROPE_ADJACENT = 1, /* channels 2i and 2i + 1, as llama.cpp's llama models */
  PQ_ROPE_HALVES = 2    /* channels i and i + rope_dims / 2, as Hugging Face's */
};

/* For schemes that weigh keys against queries. What a scheme does not use may be NULL. */
typedef struct pq_key_profile {
  size_t struct_size;
  const float* balance;       /* [num_kv_heads][head_dim], each in [1/4096, 4096] */
  const float* dense;         /* [num_kv_heads][head_dim][head_dim], with its inverse */
  const float* dense_inverse; /* [num_kv_heads][head_dim][head_dim] */
  const float* mean;          /* [num_kv_heads][head_dim] before RoPE, for center=step */
  pq_rope_pairing rope_pairing;
  int32_t rope_dims;              /* even, at most head_dim; 0 without RoPE */
  const double* rope_frequencies; /* [rope_dims / 2] radians a position, for center=step */
} pq_key_profile;
#define PQ_KEY_PROFILE_INIT \
  { sizeof(pq_key_profile), NULL, NULL, NULL, NULL, PQ_ROPE_NONE, 0, NULL }

/* The balance scale of a layer from queries and keys of any text, as attention sees them (after
 * RoPE): channel i of head h of token n at [n * stride + h * head_stride + i]. The keys are centred
 * in pages of page_tokens; one page, the prompt's first, will do, and PQ_ERROR_PARAMETER is for
 * fewer tokens. num_q_heads is a multiple of num_kv_heads. */
typedef struct pq_observation {
  size_t struct_size;
  const float* queries;
  int64_t query_stride, query_head_stride;
  const float* keys;
  int64_t key_stride, key_head_stride;
  int64_t num_tokens;
  int32_t num_q_heads, num_kv_heads, head_dim, page_tokens;
  pq_rope_pairing rope_pairing;
  int32_t rope_dims;
} pq_observation;
#define PQ_OBSERVATION_INIT \
  { sizeof(pq_observation), NULL, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 128, PQ_ROPE_NONE, 0 }
/* balance: [num_kv_heads][head_dim], num_balance of them. */
PQ_API pq_status pq_observe_balance(const pq_observation* observation, float* balance,
                                    size_t num_balance);

/* ---- Pages: rows of one kv_head and role, encoded together ----------------------------------- */

#define PQ_PAGE_ALIGNMENT 64

typedef struct pq_page_format pq_page_format; /* immutable */

typedef struct pq_page_config {
  size_t struct_size;
  const char* scheme;
  pq_role role;
  int32_t head_dim;
  int32_t page_tokens;
  int32_t reserved;
  const pq_key_profile* profile; /* of this one kv_head (num_kv_heads is 1), or NULL */
} pq_page_config;
#define PQ_PAGE_CONFIG_INIT \
  { sizeof(pq_page_config), NULL, PQ_KEY, 0, 128, 0, NULL }

/* Without the profile that its scheme needs a format knows its sizes, and refuses to encode and
 * decode. The profile's mean and RoPE are not a page's business: rows come without their stepped
 * centre. */
PQ_API pq_status pq_page_format_create(const pq_page_config* config, pq_page_format** format);
PQ_API pq_status pq_page_format_destroy(pq_page_format* format);

typedef struct pq_page_sizes {
  size_t struct_size;
  size_t page_bytes;    /* everything, a multiple of 64 */
  size_t record_bytes;  /* one row: scales and codes */
  size_t header_bytes;  /* statistics that a row is encoded with, 0 for most schemes */
  int32_t group_tokens; /* neighbours that share a header */
  int32_t code_bits;
  double bits_per_value; /* of a full page, everything counted */
} pq_page_sizes;
#define PQ_PAGE_SIZES_INIT \
  { sizeof(pq_page_sizes), 0, 0, 0, 0, 0, 0.0 }
PQ_API pq_status pq_page_format_sizes(const pq_page_format* format, pq_page_sizes* sizes);

/* Encodes `count` (0 to page_tokens) rows, row_stride values apart, into page[page_bytes]. Rows
 * past `count` are encoded as zeros. Every instruction set writes the same bytes. */
PQ_API pq_status pq_page_encode(const pq_page_format* format, const float* rows, int64_t row_stride,
                                int64_t count, void* page, size_t page_bytes);
/* The first `count` rows back. */
PQ_API pq_status pq_page_decode(const pq_page_format* format, const void* page, size_t page_bytes,
                                int64_t count, float* rows, int64_t row_stride);
/* One row (head_dim values), with the statistics the page has. */
PQ_API pq_status pq_page_encode_row(const pq_page_format* format, void* page, size_t page_bytes,
                                    int64_t index, const float* row);
PQ_API pq_status pq_page_decode_row(const pq_page_format* format, const void* page,
                                    size_t page_bytes, int64_t index, float* row);
/* A row's record, and the header it shares with its neighbours, bit for bit, wherever the page
 * keeps their parts; record_bytes and header_bytes must be those of pq_page_format_sizes. */
PQ_API pq_status pq_page_read_record(const pq_page_format* format, const void* page,
                                     size_t page_bytes, int64_t index, void* record,
                                     size_t record_bytes);
PQ_API pq_status pq_page_write_record(const pq_page_format* format, void* page, size_t page_bytes,
                                      int64_t index, const void* record, size_t record_bytes);
PQ_API pq_status pq_page_read_header(const pq_page_format* format, const void* page,
                                     size_t page_bytes, int64_t index, void* header,
                                     size_t header_bytes);
PQ_API pq_status pq_page_write_header(const pq_page_format* format, void* page, size_t page_bytes,
                                      int64_t index, const void* header, size_t header_bytes);

/* ---- Memory ---------------------------------------------------------------------------------- */

typedef struct pq_memory_use {
  size_t struct_size;
  /* Bytes resident now. */
  size_t exact_bytes;  /* exact rows (window, sinks, open pages), in whole pages of the system */
  size_t code_bytes;   /* codes and scales of closed pages */
  size_t header_bytes; /* statistics of closed pages */
  size_t bookkeeping_bytes;
  size_t total_bytes; /* their sum */
  /* For comparison; bits a value are 16.0 * total_bytes / f16_bytes. */
  int64_t filled_cells; /* rows written and not cleared */
  int64_t exact_cells;  /* of them, those read from an exact copy */
  size_t f16_bytes;     /* what the filled cells would take in 16 bit */
} pq_memory_use;
#define PQ_MEMORY_USE_INIT \
  { sizeof(pq_memory_use), 0, 0, 0, 0, 0, 0, 0, 0 }

/* ---- The cell store: rows of one layer and role, addressed by cell number -------------------- */

/* A row is coded when it is written; the newest window_tokens and the first sink_tokens (by
 * position) also stay exact, until they are retired. Schemes with statistics of a page (center,
 * zscore and the like) keep their rows exact until a whole page has been retired. */

typedef struct pq_cell_store pq_cell_store;

typedef struct pq_cell_store_config {
  size_t struct_size;
  const char* scheme;
  pq_role role;
  int32_t head_dim;
  int64_t num_cells;         /* 1 to 2^32; memory becomes resident as cells are written */
  int32_t num_kv_heads;      /* 1 to 65536 */
  int32_t page_tokens;       /* 64, 128 or 256 */
  int32_t window_tokens;     /* the newest rows kept exact (f16), 0 to 65536 */
  int32_t sink_tokens;       /* 0 to 1024: so many first positions stay exact */
  int32_t max_partial_pages; /* of schemes with statistics of a page: partly filled pages kept
                                exact before the oldest closes short */
  int32_t reserved;
  const pq_key_profile* profile; /* copied; NULL unless the scheme needs it */
} pq_cell_store_config;
#define PQ_CELL_STORE_CONFIG_INIT \
  { sizeof(pq_cell_store_config), NULL, PQ_KEY, 0, 0, 0, 128, 128, 16, 8, 0, NULL }

PQ_API pq_status pq_cell_store_create(const pq_cell_store_config* config, pq_cell_store** store);
PQ_API pq_status pq_cell_store_destroy(pq_cell_store* store);

/* Row i, of num_kv_heads * head_dim values, starts at rows[i * row_stride] and goes to cells[i];
 * cells are distinct. positions[count], below 2^24, are those RoPE turned the rows by: center=step
 * needs them; with NULL rows are numbered as they are written. A refused write writes nothing. */
PQ_API pq_status pq_cell_store_write(pq_cell_store* store, const int64_t* cells, int64_t count,
                                     const float* rows, int64_t row_stride,
                                     const int32_t* positions, int32_t num_threads);
/* Retires what is window_tokens positions or more behind the newest row, in a store of one
 * sequence. Call it after attention has read what was written. */
PQ_API pq_status pq_cell_store_settle(pq_cell_store* store, int32_t num_threads);
/* The same for stores of several sequences: the exact copies of these cells may go; of sinks they
 * stay. */
PQ_API pq_status pq_cell_store_retire(pq_cell_store* store, const int64_t* cells, int64_t count,
                                      int32_t num_threads);
/* Forgets rows and gives their memory back: all, or those of [first, first + count). */
PQ_API pq_status pq_cell_store_clear(pq_cell_store* store);
PQ_API pq_status pq_cell_store_clear_cells(pq_cell_store* store, int64_t first, int64_t count);
/* Cells [first, first + count) bit for bit from a store of the same scheme, role, shape and
 * page_tokens. */
PQ_API pq_status pq_cell_store_copy(pq_cell_store* store, const pq_cell_store* from, int64_t first,
                                    int64_t count);
/* The row as attention sees it, num_values = num_kv_heads * head_dim; zeros if never written. */
PQ_API pq_status pq_cell_store_read_row(const pq_cell_store* store, int64_t cell, float* row,
                                        size_t num_values);

/* Saved rows are num_kv_heads * head_dim * 2 bytes each; they restore the very codes, at any cell.
 * saved_bytes is count times that. PQ_ERROR_UNSUPPORTED for a scheme whose records do not fit or
 * need statistics of a page; PQ_ERROR_CORRUPTION for a row that this scheme, profile and shape did
 * not save, before anything changes. */
PQ_API pq_status pq_cell_store_saved_row_bytes(const pq_cell_store* store, size_t* saved_bytes);
PQ_API pq_status pq_cell_store_save_rows(const pq_cell_store* store, int64_t first, int64_t count,
                                         void* saved, size_t saved_bytes, int32_t num_threads);
PQ_API pq_status pq_cell_store_load_rows(pq_cell_store* store, int64_t first, int64_t count,
                                         const void* saved, size_t saved_bytes,
                                         int32_t num_threads);
PQ_API pq_status pq_cell_store_memory(const pq_cell_store* store, pq_memory_use* memory);

/* ---- The sequence cache: keys and values of one layer and one sequence ----------------------- */

typedef struct pq_sequence_cache pq_sequence_cache;

typedef struct pq_sequence_cache_config {
  size_t struct_size;
  const char* key_scheme;
  const char* value_scheme;
  int32_t key_head_dim, value_head_dim;
  int32_t num_kv_heads;
  int32_t page_tokens;           /* 64, 128 or 256 */
  int32_t window_tokens;         /* the newest rows kept exact */
  int32_t sink_tokens;           /* the first rows kept exact */
  const pq_key_profile* profile; /* copied; NULL if not needed or not known yet */
} pq_sequence_cache_config;
#define PQ_SEQUENCE_CACHE_CONFIG_INIT \
  { sizeof(pq_sequence_cache_config), NULL, NULL, 0, 0, 0, 128, 128, 16, NULL }

typedef int32_t pq_number_type;
enum { PQ_F32 = 0, PQ_F16 = 1, PQ_BF16 = 2 };

/* Value i of kv_head h of row n is number n * row_stride + h * head_stride + i at `data`. */
typedef struct pq_rows {
  size_t struct_size;
  const void* data;
  pq_number_type type;
  int32_t reserved;
  int64_t row_stride;
  int64_t head_stride;
} pq_rows;
#define PQ_ROWS_INIT \
  { sizeof(pq_rows), NULL, PQ_F32, 0, 0, 0 }

PQ_API pq_status pq_sequence_cache_create(const pq_sequence_cache_config* config,
                                          pq_sequence_cache** cache);
PQ_API pq_status pq_sequence_cache_destroy(pq_sequence_cache* cache);

/* `count` tokens to the end. */
PQ_API pq_status pq_sequence_cache_append(pq_sequence_cache* cache, const pq_rows* keys,
                                          const pq_rows* values, int64_t count,
                                          int32_t num_threads);
/* Encodes what has left the window. Call it after attention has read what was appended.
 * PQ_ERROR_PARAMETER if that needs a profile that was not given. */
PQ_API pq_status pq_sequence_cache_settle(pq_sequence_cache* cache, int32_t num_threads);
/* A second cache with the same tokens. They share pages until one of them writes to them. */
PQ_API pq_status pq_sequence_cache_fork(const pq_sequence_cache* cache, pq_sequence_cache** fork);
/* Drops the tokens from `length` on; first_token <= length <= the length it has. */
PQ_API pq_status pq_sequence_cache_truncate(pq_sequence_cache* cache, int64_t length);
/* Drops the first `count` tokens held, sinks too; memory goes by whole pages. */
PQ_API pq_status pq_sequence_cache_evict_front(pq_sequence_cache* cache, int64_t count);
PQ_API pq_status pq_sequence_cache_clear(pq_sequence_cache* cache);
/* What keys are weighed with from now on: once, before a page was encoded. Copied. */
PQ_API pq_status pq_sequence_cache_set_profile(pq_sequence_cache* cache,
                                               const pq_key_profile* profile);

typedef struct pq_sequence_state {
  size_t struct_size;
  int64_t length;        /* tokens appended and not truncated; evicted ones are counted */
  int64_t first_token;   /* tokens evicted: the first one held */
  int32_t wants_profile; /* flag: the next settle fails for want of a profile */
  int32_t reserved;
} pq_sequence_state;
#define PQ_SEQUENCE_STATE_INIT \
  { sizeof(pq_sequence_state), 0, 0, 0, 0 }
PQ_API pq_status pq_sequence_cache_state(const pq_sequence_cache* cache, pq_sequence_state* state);

/* Tokens [first, first + count) of one role as attention sees them: value i of kv_head h of token
 * first + n goes to rows[n * row_stride + h * head_stride + i]. */
PQ_API pq_status pq_sequence_cache_read(const pq_sequence_cache* cache, pq_role role, int64_t first,
                                        int64_t count, float* rows, int64_t row_stride,
                                        int64_t head_stride, int32_t num_threads);

/* Of one cache, and of several together with what they share counted once. */
PQ_API pq_status pq_sequence_cache_memory(const pq_sequence_cache* cache, pq_memory_use* memory);
PQ_API pq_status pq_sequence_cache_memory_of(const pq_sequence_cache* const* caches, size_t count,
                                             pq_memory_use* memory);

/* Several caches in one file, with host_bytes of UTF-8 text of the host's own. The file is written
 * beside its place and renamed. Shared pages are stored once and shared again. */
PQ_API pq_status pq_sequence_cache_save(const char* path, const pq_sequence_cache* const* caches,
                                        size_t count, const char* host, size_t host_bytes);

/* The bytes of that file into bytes[capacity]. needed (may be NULL) becomes how many there are; if
 * they are more than `capacity` that is PQ_ERROR_PARAMETER, and nothing is written. */
PQ_API pq_status pq_sequence_cache_print(const pq_sequence_cache* const* caches, size_t count,
                                         const char* host, size_t host_bytes, void* bytes,
                                         size_t capacity, size_t* needed);

typedef struct pq_saved_sequences pq_saved_sequences; /* what a file held; immutable */
/* PQ_ERROR_HOST if the file cannot be read, PQ_ERROR_FORMAT if it is no such file or of a version
 * to come, PQ_ERROR_CORRUPTION if it is damaged. */
PQ_API pq_status pq_saved_sequences_load(const char* path, pq_saved_sequences** saved);
/* The same from the file's bytes. */
PQ_API pq_status pq_saved_sequences_parse(const void* bytes, size_t num_bytes,
                                          pq_saved_sequences** saved);
PQ_API pq_status pq_saved_sequences_destroy(pq_saved_sequences* saved);
PQ_API pq_status pq_saved_sequences_count(const pq_saved_sequences* saved, size_t* count);
/* Both outputs live as long as `saved`. A terminator follows the bytes. */
PQ_API pq_status pq_saved_sequences_host(const pq_saved_sequences* saved, const char** host,
                                         size_t* host_bytes);
/* A cache of the caller's own, which shares its pages with `saved` and its other caches. */
PQ_API pq_status pq_saved_sequences_fork(const pq_saved_sequences* saved, size_t index,
                                         pq_sequence_cache** cache);

/* ---- Attention ------------------------------------------------------------------------------- */

/* softmax(q K^T) V, on the compressed pages of two cell stores or of a sequence cache.
 *
 *   logit = softcap(scale * <q, k>) + slope(head) * mask;  softcap(x) = c tanh(x / c), x if c is 0
 *
 * A mask of minus infinity or NaN hides the cell; a query that sees none gives zeros and an lse of
 * minus infinity. slope is ALiBi's with max_bias, 1 if that is 0. exp(sinks[head]) is added to the
 * denominator. Query head h reads kv_head h / (num_q_heads / num_kv_heads). */
typedef struct pq_attention {
  size_t struct_size;
  const pq_cell_store *keys, *values; /* stores of one num_cells, num_kv_heads and page_tokens */
  const pq_sequence_cache* sequence;  /* or this, and neither of them */
  int64_t first_cell;                 /* cells [first_cell, num_cells) are looked at; */
  int64_t num_cells;                  /* both 0 with a sequence: all tokens it holds */
  int32_t num_q_heads;                /* a multiple of num_kv_heads */
  int32_t num_queries;
  const float* queries; /* head_dim of the keys at h * query_head_stride + n * query_stride */
  int64_t query_stride, query_head_stride;
  const uint16_t* mask; /* f16 [num_queries], rows mask_stride apart; column 0 is the first cell */
  int64_t mask_stride;  /* looked at. NULL: all are seen */
  int32_t causal;       /* flag: query n does not see the last num_queries - 1 - n cells */
  float scale;
  float softcap;
  float max_bias;
  const float* sinks; /* [num_q_heads], or NULL */
  float* output;      /* head_dim of the values at h * output_head_stride + n * output_stride */
  int64_t output_stride, output_head_stride;
  float* lse; /* natural log-sum-exp at [n * num_q_heads + h], or NULL */
} pq_attention;
#define PQ_ATTENTION_INIT                                                                         \
  {                                                                                               \
    sizeof(pq_attention), NULL, NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, NULL, 0, 0, 1.0f, 0.0f, 0.0f, \
        NULL, NULL, 0, 0, NULL                                                                    \
  }
PQ_API pq_status pq_attend(const pq_attention* attention, int32_t num_threads);

/* One sequence of a batch; fields as in pq_attention. */
typedef struct pq_attention_sequence {
  size_t struct_size;
  const pq_cell_store *keys, *values;
  const pq_sequence_cache* sequence; /* may be empty, and gives zeros then */
  int64_t first_cell, num_cells;
  const float* queries;
  int64_t query_stride, query_head_stride;
  const uint16_t* mask;
  int64_t mask_stride;
  float* output;
  int64_t output_stride, output_head_stride;
  float* lse;
  int32_t num_queries; /* as many as the sequence has, other sequences may have others */
  int32_t reserved;    /* 0 */
} pq_attention_sequence;
#define PQ_ATTENTION_SEQUENCE_INIT                                                                \
  {                                                                                               \
    sizeof(pq_attention_sequence), NULL, NULL, NULL, 0, 0, NULL, 0, 0, NULL, 0, NULL, 0, 0, NULL, \
        0, 0                                                                                      \
  }

/* Sequences of one num_kv_heads and page_tokens, of any lengths, attended to together. */
typedef struct pq_attention_batch {
  size_t struct_size;
  const pq_attention_sequence* sequences; /* an array; all have the same struct_size */
  int64_t num_sequences;
  int64_t window;     /* of the cells up to its own a query sees the newest `window`; 0: all */
  const float* sinks; /* [num_q_heads], or NULL */
  int32_t num_q_heads;
  int32_t causal; /* flag: query n does not see the last num_queries - 1 - n cells */
  float scale;
  float softcap;
  float max_bias;
  int32_t reserved; /* 0 */
} pq_attention_batch;
#define PQ_ATTENTION_BATCH_INIT \
  { sizeof(pq_attention_batch), NULL, 0, 0, NULL, 0, 0, 1.0f, 0.0f, 0.0f, 0 }

/* Who computes. */
typedef struct pq_executor {
  size_t struct_size;
  int32_t num_threads;
  int32_t device; /* 0, the processor: there is no other yet */
  void* stream;   /* of a device; NULL */
} pq_executor;
#define PQ_EXECUTOR_INIT \
  { sizeof(pq_executor), 1, 0, NULL }
PQ_API pq_status pq_attend_batch(const pq_attention_batch* batch, const pq_executor* executor);

#ifdef __cplusplus
}
#endif

#endif /* POLARQUANT_POLARQUANT_H */
