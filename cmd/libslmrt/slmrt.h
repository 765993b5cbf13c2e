/*
 * slmrt in an app: load a bundle, generate, decide whether to hand off, free.
 *
 * Every function may be called from any thread, several at once, also on the
 * same model. Texts are UTF-8 and end with a zero byte; requests and results are
 * JSON objects, so that this interface grows without breaking. Texts that come
 * back through a char ** belong to the caller: slmrt_free_text. No function ends
 * the process; what went wrong is in slmrt_last_error of the calling thread.
 */
#ifndef SLMRT_H
#define SLMRT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLMRT_ABI 1

/* The codes are the exit codes of slmrt. */
typedef enum {
	SLMRT_OK = 0,
	SLMRT_FAILED = 1,      /* input or output, or an unexpected state */
	SLMRT_USAGE = 2,       /* a request that can't be meant, a freed model */
	SLMRT_UNSUPPORTED = 3, /* a bundle or setting that this build does not run */
	SLMRT_CORRUPT = 4,     /* a damaged bundle, a bad signature */
	SLMRT_MEMORY = 6,      /* above the budget of the options */
	SLMRT_VERSION = 7,     /* a bundle of a newer slmc */
	SLMRT_STOPPED = 8      /* the callback ended the generation */
} slmrt_status;

typedef uintptr_t slmrt_model; /* 0 is none */

/*
 * Receives length bytes of text, whole characters, on the thread that called
 * slmrt_generate. The text is valid during the call only. Return 0 to go on.
 */
typedef int (*slmrt_text)(void *user, const char *text, size_t length);

/* The version of this interface that the library was built with. */
int32_t slmrt_abi(void);

/*
 * Opens a bundle. options may be NULL or {"threads": 4, "context": 2048,
 * "memory": BYTES, "check": true, "public_key": FILE, "draft": BUNDLE,
 * "lookup": 2}: none of them changes a token. check reads every byte;
 * public_key demands a signature.
 */
slmrt_status slmrt_load(const char *path, const char *options, slmrt_model *model);

/*
 * Generates. request holds one of "user" (a message), "messages" ([{"role":
 * "user", "content": TEXT}, ...]) or "prompt" (raw text), and may hold
 * "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed",
 * "stop": [TEXT, ...], "readings": true for the deferral router's readings, and
 * "handoff": the request of slmrt_decide, without a reading. With it the policy is
 * asked before the first token and at each reading; a query that is to be deferred,
 * or not answered, ends there with "stop": "handoff", and "decision" says why. Text
 * may have been given to the callback by then.
 * text may be NULL. result, if not NULL, receives {"text", "prompt_tokens",
 * "tokens", "stop", "handoff", "decision", "readings", "speculation"}.
 */
slmrt_status slmrt_generate(slmrt_model model, const char *request, slmrt_text text, void *user, char **result);

/*
 * Decides what to do with a query: {"policy": {...}, "situation": {"class",
 * "device": {"offline", "battery", "charging", "thermal"}, "calls", "tokens",
 * "local", "remote" (nanoseconds), "unable"}, "reading": one of slmrt_generate's
 * readings}, each optional, gives {"outcome": "LOCAL" | "DEFER" | "ABSTAIN" |
 * "LOCAL_WITH_WARNING", "reason", "judgement"}. The same input gives the same
 * decision.
 */
slmrt_status slmrt_decide(slmrt_model model, const char *request, char **decision);

/* Says what the bundle holds: {"digest", "architecture", "parameters", "context", "memory", ...}. */
slmrt_status slmrt_describe(slmrt_model model, char **description);

/* Frees the model, after the calls that are under way: never from a callback. 0 is nothing. */
slmrt_status slmrt_free(slmrt_model model);

void slmrt_free_text(char *text);

/* What the last call of this thread that failed has to say; never NULL, valid until the thread's next call. */
const char *slmrt_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
