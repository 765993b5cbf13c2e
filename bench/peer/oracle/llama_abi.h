// The part of llama.cpp's C interface that the oracle calls, declared for
// release v0.5.0 (the libraries of @node-llama-cpp/linux-x64 3.22.1), which
// ships without headers. Parameter structs travel by value, so their layout
// must be the library's: each ends in spare room, so that a default function
// that writes more than is declared here cannot run over the stack, and
// oracle.c refuses to start unless the version and the values of the default
// functions are those of this release.

#ifndef SLMC_LLAMA_ABI_H
#define SLMC_LLAMA_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEER_VERSION "0.5.0-dev"

typedef int32_t llama_token;

struct llama_model_params {
    void *devices;
    const void *tensor_buft_overrides;
    int32_t n_gpu_layers;
    int32_t split_mode;
    int32_t load_mode;
    int32_t lazy_mode;
    int32_t main_gpu;
    const float *tensor_split;
    void *progress_callback;
    void *progress_callback_user_data;
    const void *kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool no_host;
    bool no_alloc;
    bool load_mtp;
    char spare[512];
};

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int32_t ctx_type;
    int32_t rope_scaling_type;
    int32_t pooling_type;
    int32_t attention_type;
    int32_t flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void *cb_eval;
    void *cb_eval_user_data;
    int32_t type_k;
    int32_t type_v;
    void *abort_callback;
    void *abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void *samplers;
    size_t n_samplers;
    void *ctx_other;
    char spare[512];
};

struct llama_model_quantize_params {
    int32_t nthread;
    int32_t ftype;
    int32_t output_tensor_type;
    int32_t token_embedding_type;
    bool allow_requantize;
    bool quantize_output_tensor;
    bool only_copy;
    bool pure;
    bool keep_split;
    bool dry_run;
    const void *imatrix;
    const void *kv_overrides;
    const void *tt_overrides;
    const int32_t *prune_layers;
    size_t max_buf_size;
    char spare[512];
};

struct llama_batch {
    int32_t n_tokens;
    llama_token *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
};

struct ggml_type_traits {
    const char *type_name;
    int64_t blck_size;
    int64_t blck_size_interleave;
    size_t type_size;
    bool is_quantized;
    void (*to_float)(const void *x, float *y, int64_t k);
    void (*from_float_ref)(const float *x, void *y, int64_t k);
};

enum { GGML_TYPE_F32 = 0, GGML_TYPE_F16 = 1, GGML_TYPE_Q8_0 = 8, GGML_TYPE_IQ4_NL = 20, GGML_TYPE_COUNT = 43 };
enum { FLASH_ATTN_AUTO = -1, FLASH_ATTN_DISABLED = 0, FLASH_ATTN_ENABLED = 1 };

const char *llama_version(void);
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
struct llama_model_quantize_params llama_model_quantize_default_params(void);
void llama_backend_init(void);
void llama_log_set(void (*cb)(int level, const char *text, void *data), void *data);
void *llama_model_load_from_file(const char *path, struct llama_model_params params);
void llama_model_free(void *model);
void *llama_init_from_model(void *model, struct llama_context_params params);
void llama_free(void *ctx);
const void *llama_model_get_vocab(const void *model);
int32_t llama_model_n_ctx_train(const void *model);
int32_t llama_model_n_embd(const void *model);
int32_t llama_model_n_layer(const void *model);
int32_t llama_model_rope_type(const void *model);
int32_t llama_model_desc(const void *model, char *buf, size_t size);
uint64_t llama_model_n_params(const void *model);
uint64_t llama_model_size(const void *model);
int32_t llama_vocab_n_tokens(const void *vocab);
int32_t llama_vocab_type(const void *vocab);
llama_token llama_vocab_bos(const void *vocab);
llama_token llama_vocab_eos(const void *vocab);
int32_t llama_tokenize(const void *vocab, const char *text, int32_t len, llama_token *out, int32_t max, bool add_special, bool parse_special);
int32_t llama_detokenize(const void *vocab, const llama_token *ids, int32_t n, char *text, int32_t max, bool remove_special, bool unparse_special);
int32_t llama_decode(void *ctx, struct llama_batch batch);
float *llama_get_logits_ith(void *ctx, int32_t i);
void *llama_get_memory(const void *ctx);
void llama_memory_clear(void *memory, bool data);
uint32_t llama_model_quantize(const char *in, const char *out, const struct llama_model_quantize_params *params);
int64_t llama_time_us(void);

const struct ggml_type_traits *ggml_get_type_traits(int type);
void ggml_quantize_init(int type);
void ggml_cpu_init(void);
void ggml_backend_load_all_from_path(const char *dir);
size_t ggml_backend_dev_count(void);

#endif
