// oracle answers for llama.cpp on the command line: logits, greedy tokens,
// token ids, quantized files and blocks, speed. It is the second opinion that
// slmc's tests and benchmarks compare with; README.md states each command's
// input and output. Floats are printed with 9 significant digits, which
// identify a float32.

#include "llama_abi.h"

#include <errno.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool verbose;

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("oracle: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void log_line(int level, const char *text, void *data) {
    (void)data;
    enum { WARNING = 3, ERROR = 4 };
    if (verbose || level == ERROR)
        fputs(text, stderr);
}

// check_abi compares the default parameters with those of the declared
// release: a field that moved would show up as another field's value.
static void check_abi(void) {
    if (strcmp(llama_version(), PEER_VERSION) != 0)
        fail("libllama is version %s, llama_abi.h declares %s", llama_version(), PEER_VERSION);
    struct llama_model_params m = llama_model_default_params();
    if (m.devices || m.n_gpu_layers != -1 || m.split_mode != 1 || m.load_mode != -1 || m.lazy_mode != 1 || m.main_gpu != 0 ||
        m.vocab_only || m.check_tensors || !m.use_extra_bufts || m.no_host || m.no_alloc || m.load_mtp)
        fail("llama_model_params has another layout than llama_abi.h declares");
    struct llama_context_params c = llama_context_default_params();
    if (c.n_ctx != 512 || c.n_batch != 2048 || c.n_ubatch != 512 || c.n_seq_max != 1 || c.n_outputs_max_per_seq != 1 ||
        c.flash_attn_type != FLASH_ATTN_AUTO || c.yarn_beta_slow != -1 || c.yarn_orig_ctx != 0 || c.defrag_thold != -1 ||
        c.cb_eval || c.type_k != GGML_TYPE_F16 || c.type_v != GGML_TYPE_F16 || c.embeddings || !c.offload_kqv || !c.no_perf ||
        !c.op_offload || !c.swa_full || c.kv_unified || c.samplers || c.n_samplers || c.ctx_other)
        fail("llama_context_params has another layout than llama_abi.h declares");
    struct llama_model_quantize_params q = llama_model_quantize_default_params();
    if (q.nthread != 0 || q.ftype != 7 || q.output_tensor_type != GGML_TYPE_COUNT || q.token_embedding_type != GGML_TYPE_COUNT ||
        q.allow_requantize || !q.quantize_output_tensor || q.only_copy || q.pure || q.keep_split || q.dry_run || q.imatrix ||
        q.max_buf_size != (size_t)8 << 30)
        fail("llama_model_quantize_params has another layout than llama_abi.h declares");
    const struct ggml_type_traits *t = ggml_get_type_traits(GGML_TYPE_IQ4_NL);
    if (strcmp(t->type_name, "iq4_nl") != 0 || t->blck_size != 32 || t->type_size != 18 || !t->is_quantized)
        fail("ggml_type_traits has another layout than llama_abi.h declares");
}

static void load_backends(void) {
    llama_log_set(log_line, NULL);
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        fail("/proc/self/exe: %s", strerror(errno));
    path[n] = 0;
    char dir[4200];
    snprintf(dir, sizeof dir, "%s/%s", dirname(path), LIB_DIR);
    ggml_backend_load_all_from_path(dir);
    if (ggml_backend_dev_count() == 0)
        fail("no libggml-cpu-*.so in %s fits this processor", dir);
    llama_backend_init();
}

struct options {
    int threads, ctx, kv, flash, repack;
    bool special, parse, pure, wait;
    int prompt, decode, reps;
};

static void *load_model(const char *path, const struct options *o, bool vocab_only) {
    struct llama_model_params p = llama_model_default_params();
    p.vocab_only = vocab_only;
    p.use_extra_bufts = o->repack;
    void *model = llama_model_load_from_file(path, p);
    if (!model)
        fail("%s: llama.cpp does not load it", path);
    return model;
}

static void *new_context(void *model, const struct options *o, int tokens) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = o->ctx > tokens ? o->ctx : tokens;
    p.n_batch = tokens > 0 ? tokens : 1;
    p.n_ubatch = p.n_batch < 512 ? p.n_batch : 512;
    p.n_outputs_max_per_seq = 0;
    p.n_threads = p.n_threads_batch = o->threads;
    p.flash_attn_type = o->flash ? FLASH_ATTN_ENABLED : FLASH_ATTN_DISABLED;
    p.type_k = p.type_v = o->kv;
    void *ctx = llama_init_from_model(model, p);
    if (!ctx)
        fail("llama.cpp gives no context for %d tokens", tokens);
    return ctx;
}

// decode runs tokens [n] at positions from, from+1, ...; all says whether
// every position's logits are kept, or the last one's alone.
static void decode(void *ctx, llama_token *tokens, int n, int from, bool all) {
    int32_t *pos = malloc(n * sizeof *pos), *count = malloc(n * sizeof *count), seq = 0;
    int32_t **seqs = malloc(n * sizeof *seqs);
    int8_t *wanted = malloc(n);
    for (int i = 0; i < n; i++) {
        pos[i] = from + i;
        count[i] = 1;
        seqs[i] = &seq;
        wanted[i] = all || i == n - 1;
    }
    struct llama_batch batch = {n, tokens, NULL, pos, count, seqs, wanted};
    int rc = llama_decode(ctx, batch);
    if (rc != 0)
        fail("llama_decode of %d tokens at %d: %d", n, from, rc);
    free(pos), free(count), free(seqs), free(wanted);
}

static int parse_ids(int argc, char **argv, int vocab, llama_token **out) {
    *out = malloc((argc + 1) * sizeof **out);
    for (int i = 0; i < argc; i++) {
        char *end;
        long id = strtol(argv[i], &end, 10);
        if (*end || end == argv[i] || id < 0 || id >= vocab)
            fail("token id %s, the vocabulary has %d", argv[i], vocab);
        (*out)[i] = id;
    }
    return argc;
}

static void cmd_info(char **argv, const struct options *o) {
    void *model = load_model(argv[0], o, false);
    const void *vocab = llama_model_get_vocab(model);
    char desc[256] = "";
    llama_model_desc(model, desc, sizeof desc);
    printf("version=%s\ndesc=%s\nvocab=%d\nvocab_type=%d\nlayers=%d\nembedding=%d\ncontext=%d\nparameters=%llu\nbytes=%llu\nrope_type=%d\nbos=%d\neos=%d\n",
           llama_version(), desc, llama_vocab_n_tokens(vocab), llama_vocab_type(vocab), llama_model_n_layer(model),
           llama_model_n_embd(model), llama_model_n_ctx_train(model), (unsigned long long)llama_model_n_params(model),
           (unsigned long long)llama_model_size(model), llama_model_rope_type(model), llama_vocab_bos(vocab), llama_vocab_eos(vocab));
}

static void cmd_logits(int argc, char **argv, const struct options *o) {
    void *model = load_model(argv[0], o, false);
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token *ids;
    int n = parse_ids(argc - 1, argv + 1, vocab, &ids);
    void *ctx = new_context(model, o, n);
    decode(ctx, ids, n, 0, true);
    for (int i = 0; i < n; i++) {
        const float *z = llama_get_logits_ith(ctx, i);
        for (int v = 0; v < vocab; v++)
            printf("%.9g%c", z[v], v == vocab - 1 ? '\n' : ' ');
    }
}

static int argmax(const float *z, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (z[i] > z[best])
            best = i;
    return best;
}

static void cmd_greedy(int argc, char **argv, const struct options *o) {
    void *model = load_model(argv[0], o, false);
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int steps = atoi(argv[1]);
    llama_token *ids;
    int n = parse_ids(argc - 2, argv + 2, vocab, &ids);
    void *ctx = new_context(model, o, n + steps);
    decode(ctx, ids, n, 0, false);
    for (int i = 0; i < steps; i++) {
        llama_token id = argmax(llama_get_logits_ith(ctx, -1), vocab);
        printf("%d%c", id, i == steps - 1 ? '\n' : ' ');
        if (i < steps - 1)
            decode(ctx, &id, 1, n + i, false);
    }
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    fail("input is not lower-case hexadecimal");
    return 0;
}

// next_text reads one line of hexadecimal digits into bytes; false at the end.
static bool next_text(char **line, size_t *cap, char **text, int *len) {
    ssize_t n = getline(line, cap, stdin);
    if (n < 0)
        return false;
    while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r'))
        n--;
    *text = realloc(*text, n / 2 + 1);
    *len = n / 2;
    for (int i = 0; i < *len; i++)
        (*text)[i] = hex_digit((*line)[2 * i]) << 4 | hex_digit((*line)[2 * i + 1]);
    return true;
}

static void cmd_tokenize(char **argv, const struct options *o) {
    void *model = load_model(argv[0], o, true);
    const void *vocab = llama_model_get_vocab(model);
    char *line = NULL, *text = NULL;
    size_t cap = 0;
    int len;
    while (next_text(&line, &cap, &text, &len)) {
        int max = len + 16;
        llama_token *ids = malloc(max * sizeof *ids);
        int n = llama_tokenize(vocab, text, len, ids, max, o->special, o->parse);
        if (n < 0)
            fail("llama_tokenize wants %d ids for %d bytes", -n, len);
        for (int i = 0; i < n; i++)
            printf("%d%s", ids[i], i == n - 1 ? "" : " ");
        printf("\n");
        free(ids);
    }
}

static void cmd_detokenize(char **argv, const struct options *o) {
    void *model = load_model(argv[0], o, true);
    const void *vocab = llama_model_get_vocab(model);
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) >= 0) {
        llama_token *ids = malloc((strlen(line) + 1) * sizeof *ids);
        int n = 0;
        for (char *word = strtok(line, " \r\n"); word; word = strtok(NULL, " \r\n"))
            ids[n++] = atoi(word);
        int max = 256 * n + 16;
        char *text = malloc(max);
        int len = llama_detokenize(vocab, ids, n, text, max, false, o->parse);
        if (len < 0)
            fail("llama_detokenize wants %d bytes for %d ids", -len, n);
        for (int i = 0; i < len; i++)
            printf("%02x", (unsigned char)text[i]);
        printf("\n");
        free(ids), free(text);
    }
}

// file_type maps a name to llama_ftype, the preset that says which type each
// tensor gets.
static int file_type(const char *name) {
    static const struct {
        const char *name;
        int ftype;
    } table[] = {{"f32", 0}, {"f16", 1}, {"q4_0", 2}, {"q4_1", 3}, {"q8_0", 7}, {"q5_0", 8}, {"q5_1", 9}, {"q2_k", 10},
                 {"q3_k_m", 12}, {"q4_k_s", 14}, {"q4_k_m", 15}, {"q5_k_m", 17}, {"q6_k", 18}, {"iq4_nl", 25}, {"bf16", 32}, {"tq2_0", 37}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].ftype;
    fail("unknown file type %s", name);
    return 0;
}

static int block_type(const char *name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const struct ggml_type_traits *t = ggml_get_type_traits(i);
        if (t->type_name && t->blck_size > 0 && strcasecmp(t->type_name, name) == 0)
            return i;
    }
    fail("unknown block type %s", name);
    return 0;
}

static void cmd_quantize(char **argv, const struct options *o) {
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.nthread = o->threads;
    p.ftype = file_type(argv[2]);
    p.pure = o->pure;
    p.allow_requantize = true;
    int64_t start = llama_time_us();
    if (llama_model_quantize(argv[0], argv[1], &p) != 0)
        fail("%s: llama.cpp does not quantize it to %s", argv[0], argv[2]);
    printf("seconds=%.3f\n", (llama_time_us() - start) / 1e6);
}

static void *read_stdin(size_t *size) {
    size_t cap = 1 << 20, n = 0, got;
    char *data = malloc(cap);
    while ((got = fread(data + n, 1, cap - n, stdin)) > 0)
        if ((n += got) == cap)
            data = realloc(data, cap *= 2);
    *size = n;
    return data;
}

static void cmd_dequantize(char **argv) {
    const struct ggml_type_traits *t = ggml_get_type_traits(block_type(argv[0]));
    size_t size;
    void *data = read_stdin(&size);
    if (size % t->type_size)
        fail("%zu bytes of %s, whose block has %zu", size, argv[0], t->type_size);
    int64_t n = size / t->type_size * t->blck_size;
    if (strcasecmp(argv[0], "f32") == 0) {
        fwrite(data, 1, size, stdout);
        return;
    }
    if (!t->to_float)
        fail("llama.cpp has no conversion from %s", argv[0]);
    float *out = malloc(n * sizeof *out);
    t->to_float(data, out, n);
    fwrite(out, sizeof *out, n, stdout);
}

static void cmd_encode(char **argv) {
    const struct ggml_type_traits *t = ggml_get_type_traits(block_type(argv[0]));
    size_t size;
    float *data = read_stdin(&size);
    int64_t n = size / sizeof *data;
    if (size % sizeof *data || n % t->blck_size)
        fail("%zu bytes of float32 for blocks of %lld elements", size, (long long)t->blck_size);
    if (!t->from_float_ref)
        fail("llama.cpp has no reference conversion to %s", argv[0]);
    ggml_quantize_init(block_type(argv[0]));
    size_t bytes = n / t->blck_size * t->type_size;
    void *out = calloc(bytes, 1);
    t->from_float_ref(data, out, n);
    fwrite(out, 1, bytes, stdout);
}

static void cmd_types(void) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const struct ggml_type_traits *t = ggml_get_type_traits(i);
        if (t->type_name && t->blck_size > 0)
            printf("%d %s %lld %zu\n", i, t->type_name, (long long)t->blck_size, t->type_size);
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_speed(const char *name, double *tok_s, int n) {
    qsort(tok_s, n, sizeof *tok_s, ascending);
    printf("%s_tok_s=%.2f %s_min=%.2f %s_max=%.2f\n", name, tok_s[n / 2], name, tok_s[0], name, tok_s[n - 1]);
}

// cmd_bench times whole llama_decode calls: the prompt in one call, then one
// call a token, reading the logits of each, as a program that samples does. With
// -w each round waits for a line on stdin and prints its seconds, so that
// another program can take turns.
static void cmd_bench(char **argv, const struct options *o) {
    int64_t start = llama_time_us();
    void *model = load_model(argv[0], o, false);
    printf("load_ms=%.1f\n", (llama_time_us() - start) / 1e3);
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token *ids = malloc(o->prompt * sizeof *ids);
    for (int i = 0; i < o->prompt; i++)
        ids[i] = (i * 7919 + 13) % vocab;
    void *ctx = new_context(model, o, o->prompt + o->decode);
    double prefill[o->reps], step[o->reps];
    for (int r = -1; r < o->reps; r++) { // the first round warms up
        char line[64];
        if (o->wait && (fflush(stdout), !fgets(line, sizeof line, stdin)))
            return;
        llama_memory_clear(llama_get_memory(ctx), true);
        int64_t t0 = llama_time_us();
        decode(ctx, ids, o->prompt, 0, false);
        llama_token id = argmax(llama_get_logits_ith(ctx, -1), vocab);
        int64_t t1 = llama_time_us();
        for (int i = 0; i < o->decode; i++) {
            decode(ctx, &id, 1, o->prompt + i, false);
            id = argmax(llama_get_logits_ith(ctx, -1), vocab);
        }
        int64_t t2 = llama_time_us();
        if (o->wait)
            printf("prefill_s=%.6f decode_s=%.6f\n", (t1 - t0) / 1e6, (t2 - t1) / 1e6);
        if (r >= 0) {
            prefill[r] = o->prompt * 1e6 / (t1 - t0);
            step[r] = o->decode * 1e6 / (t2 - t1);
        }
    }
    print_speed("prefill", prefill, o->reps);
    print_speed("decode", step, o->reps);
}

static const char usage[] =
    "usage: oracle [options] command ...\n"
    "  info MODEL                    version and shape of a model\n"
    "  logits MODEL ID...            one line a position: V logits\n"
    "  greedy MODEL N ID...          one line: N ids, the largest logit each time\n"
    "  tokenize MODEL                stdin: a text a line, in hex; stdout: ids a line\n"
    "  detokenize MODEL              stdin: ids a line; stdout: a text a line, in hex\n"
    "  quantize IN OUT TYPE          TYPE: f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k_m q4_k_s q4_k_m q5_k_m q6_k iq4_nl tq2_0\n"
    "  bench MODEL                   load, prefill and decode speed: median, least and most over -r rounds\n"
    "  dequantize TYPE               stdin: blocks; stdout: float32\n"
    "  encode TYPE                   stdin: float32; stdout: blocks by the reference quantizer\n"
    "  types                         id, name, elements and bytes of a block\n"
    "options: -t threads (1)  -c context (as needed)  -k f32|f16|q8_0, type of the KV cache (f32)  -F flash attention on\n"
    "         -R repack weights at load (always on in bench)  -s add special tokens  -p parse special tokens\n"
    "         -P every tensor the same type (quantize)  -n prompt (512)  -g decode (128)  -r rounds (3)  -w wait for a line before each  -v verbose\n";

int main(int argc, char **argv) {
    struct options o = {.threads = 1, .kv = GGML_TYPE_F32, .prompt = 512, .decode = 128, .reps = 3};
    for (int c; (c = getopt(argc, argv, "+t:c:k:FRspPwn:g:r:v")) != -1;) {
        switch (c) {
        case 't': o.threads = atoi(optarg); break;
        case 'c': o.ctx = atoi(optarg); break;
        case 'k': o.kv = block_type(optarg); break;
        case 'F': o.flash = 1; break;
        case 'R': o.repack = 1; break;
        case 's': o.special = true; break;
        case 'p': o.parse = true; break;
        case 'P': o.pure = true; break;
        case 'w': o.wait = true; break;
        case 'n': o.prompt = atoi(optarg); break;
        case 'g': o.decode = atoi(optarg); break;
        case 'r': o.reps = atoi(optarg); break;
        case 'v': verbose = true; break;
        default: fputs(usage, stderr); return 2;
        }
    }
    argc -= optind, argv += optind;
    setenv("GGML_NO_BACKTRACE", "1", 1); // an abort would start a debugger
    const char *cmd = argc > 0 ? argv[0] : "";
    int args = argc - 1;
    check_abi();
    if (strcmp(cmd, "types") == 0 && args == 0) {
        cmd_types();
        return 0;
    }
    if (strcmp(cmd, "dequantize") == 0 && args == 1) {
        cmd_dequantize(argv + 1);
        return 0;
    }
    if (strcmp(cmd, "encode") == 0 && args == 1) {
        cmd_encode(argv + 1);
        return 0;
    }
    load_backends();
    if (strcmp(cmd, "bench") == 0 && args == 1 && o.prompt > 0 && o.decode > 0 && o.reps > 0) {
        o.repack = 1;
        cmd_bench(argv + 1, &o);
    } else if (strcmp(cmd, "info") == 0 && args == 1)
        cmd_info(argv + 1, &o);
    else if (strcmp(cmd, "logits") == 0 && args >= 2)
        cmd_logits(args, argv + 1, &o);
    else if (strcmp(cmd, "greedy") == 0 && args >= 3 && atoi(argv[2]) > 0)
        cmd_greedy(args, argv + 1, &o);
    else if (strcmp(cmd, "tokenize") == 0 && args == 1)
        cmd_tokenize(argv + 1, &o);
    else if (strcmp(cmd, "detokenize") == 0 && args == 1)
        cmd_detokenize(argv + 1, &o);
    else if (strcmp(cmd, "quantize") == 0 && args == 3)
        cmd_quantize(argv + 1, &o);
    else {
        fputs(usage, stderr);
        return 2;
    }
    return 0;
}
