/* An app as a test: app BUNDLE BROKEN ROUTED EXPECTED, where EXPECTED is the answer
 * to "set a timer for nine minutes", and ROUTED has a router whose score is always a
 * half and whose row defers from 0.4 on, after the prompt. Ends with 0, or says
 * what is wrong. */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slmrt.h"

#define QUESTION "{\"user\": \"set a timer for nine minutes\"}"

static void fail(const char *what, int line) {
	fprintf(stderr, "line %d: %s; last error: %s\n", line, what, slmrt_last_error());
	exit(1);
}
#define CHECK(x) do { if (!(x)) fail(#x, __LINE__); } while (0)

struct heard {
	char text[4096];
	size_t length;
	int calls, stop_after;
	pthread_t thread;
};

static int hear(void *user, const char *text, size_t length) {
	struct heard *h = user;
	h->thread = pthread_self();
	if (h->length + length >= sizeof h->text) return 1;
	memcpy(h->text + h->length, text, length);
	h->length += length;
	h->text[h->length] = 0;
	return ++h->calls == h->stop_after;
}

static slmrt_model model;
static const char *expected;

static void *talk(void *number) {
	for (int i = 0; i < 5; i++) {
		struct heard h = {0};
		char *result = NULL;
		CHECK(slmrt_generate(model, QUESTION, hear, &h, &result) == SLMRT_OK);
		CHECK(strcmp(h.text, expected) == 0);
		CHECK(pthread_equal(h.thread, pthread_self()));
		CHECK(strstr(result, "\"stop\":\"eos\"") != NULL);
		slmrt_free_text(result);
	}
	/* Each thread has its own last error. */
	char request[64], wanted[32];
	snprintf(request, sizeof request, "{\"wing%ld\": 1}", (long)number);
	snprintf(wanted, sizeof wanted, "wing%ld", (long)number);
	for (int i = 0; i < 20; i++) {
		CHECK(slmrt_generate(model, request, NULL, NULL, NULL) == SLMRT_USAGE);
		usleep(1000);
		CHECK(strstr(slmrt_last_error(), wanted) != NULL);
	}
	return NULL;
}

static long resident(void) {
	long size = 0, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	CHECK(f != NULL && fscanf(f, "%ld %ld", &size, &pages) == 2);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE);
}

static int count(const char *folder) {
	int n = 0;
	DIR *d = opendir(folder);
	CHECK(d != NULL);
	while (readdir(d) != NULL) n++;
	closedir(d);
	return n;
}

int main(int argc, char **argv) {
	CHECK(argc == 5);
	const char *bundle = argv[1], *broken = argv[2];
	expected = argv[4];
	char *out = NULL;
	CHECK(slmrt_abi() == SLMRT_ABI);
	CHECK(strcmp(slmrt_last_error(), "") == 0);

	/* What can't be loaded. */
	slmrt_model none = 1;
	CHECK(slmrt_load("nothere.slmb", NULL, &none) == SLMRT_FAILED && none == 0);
	CHECK(strstr(slmrt_last_error(), "nothere.slmb") != NULL);
	CHECK(slmrt_load(broken, "{\"check\": true}", &none) == SLMRT_CORRUPT && none == 0);
	CHECK(slmrt_load(bundle, "{\"wings\": 2}", &none) == SLMRT_USAGE && none == 0);
	CHECK(slmrt_load(bundle, "{\"memory\": 1000}", &none) == SLMRT_MEMORY && none == 0);
	CHECK(slmrt_load(bundle, "{\"threads\": -1}", &none) == SLMRT_USAGE);
	CHECK(slmrt_load(bundle, "not JSON", &none) == SLMRT_USAGE);
	CHECK(slmrt_load(bundle, "{\"draft\": \"nothere.slmb\"}", &none) == SLMRT_FAILED);
	CHECK(slmrt_load(NULL, NULL, &none) == SLMRT_USAGE);
	CHECK(slmrt_load(bundle, NULL, NULL) == SLMRT_USAGE);

	/* One call after the other, and from several threads. */
	CHECK(slmrt_load(bundle, "{\"threads\": 1, \"check\": true}", &model) == SLMRT_OK && model != 0);
	talk((void *)99);
	pthread_t threads[6];
	for (long i = 0; i < 6; i++) CHECK(pthread_create(&threads[i], NULL, talk, (void *)i) == 0);
	for (int i = 0; i < 6; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(strstr(slmrt_last_error(), "wing99") != NULL);

	/* Other forms of a request, and the callback's word. */
	struct heard h = {.stop_after = 1};
	CHECK(slmrt_generate(model, QUESTION, hear, &h, &out) == SLMRT_STOPPED && out == NULL && h.calls == 1);
	CHECK(slmrt_generate(model, "{\"messages\": [{\"role\": \"user\", \"content\": \"set a timer for nine minutes\"}], \"stop\": [\"(\"]}", NULL, NULL, &out) == SLMRT_OK);
	CHECK(strstr(out, "\"stop\":\"stop\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_generate(model, "{\"prompt\": \"what is\", \"max_tokens\": 3, \"temperature\": 1, \"seed\": 7}", NULL, NULL, &out) == SLMRT_OK);
	CHECK(strstr(out, "\"tokens\":3") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_generate(model, "{}", NULL, NULL, &out) == SLMRT_USAGE && out == NULL);
	CHECK(slmrt_generate(model, NULL, NULL, NULL, &out) == SLMRT_USAGE);
	CHECK(slmrt_generate(model, "{\"prompt\": \"a\", \"temperature\": -1}", NULL, NULL, &out) == SLMRT_USAGE);
	CHECK(slmrt_generate(0, QUESTION, NULL, NULL, &out) == SLMRT_USAGE);
	CHECK(slmrt_generate(12345, QUESTION, NULL, NULL, &out) == SLMRT_USAGE);

	/* Decisions: offline keeps the query here, a full day's budget too. */
	CHECK(slmrt_decide(model, "{\"situation\": {\"device\": {\"offline\": true}}}", &out) == SLMRT_OK);
	CHECK(strstr(out, "\"outcome\":\"LOCAL_WITH_WARNING\"") != NULL && strstr(out, "\"reason\":\"offline\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_decide(model, "{\"policy\": {\"version\": 1, \"score\": {\"unscored\": \"local\"}}}", &out) == SLMRT_OK);
	CHECK(strstr(out, "\"outcome\":\"LOCAL\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_decide(model, "{\"policy\": {\"version\": 1, \"wings\": 2}}", &out) == SLMRT_USAGE && out == NULL);
	CHECK(slmrt_decide(model, "{\"reading\": {\"checkpoint\": \"pre\"}}", &out) == SLMRT_USAGE);
	CHECK(slmrt_decide(model, "{}", NULL) == SLMRT_USAGE);
	/* A policy within a generation: without a router the rules alone decide. */
	struct heard none_heard = {0};
	CHECK(slmrt_generate(model, "{\"user\": \"set a timer for nine minutes\", \"handoff\": {}}", hear, &none_heard, &out) == SLMRT_OK);
	CHECK(none_heard.calls == 0 && strstr(out, "\"stop\":\"handoff\"") != NULL && strstr(out, "\"outcome\":\"DEFER\",\"reason\":\"unscored\"") != NULL);
	slmrt_free_text(out);
	struct heard kept = {0};
	CHECK(slmrt_generate(model, "{\"user\": \"set a timer for nine minutes\", \"handoff\": {\"situation\": {\"device\": {\"offline\": true}}}}", hear, &kept, &out) == SLMRT_OK);
	CHECK(strcmp(kept.text, expected) == 0 && strstr(out, "\"outcome\":\"LOCAL_WITH_WARNING\"") != NULL);
	slmrt_free_text(out);
	slmrt_model routed;
	CHECK(slmrt_load(argv[3], NULL, &routed) == SLMRT_OK);
	CHECK(slmrt_generate(routed, "{\"user\": \"set a timer for nine minutes\", \"readings\": true}", NULL, NULL, &out) == SLMRT_OK);
	CHECK(strstr(out, "\"stop\":\"eos\"") != NULL && strstr(out, "\"checkpoint\":\"pre\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_generate(routed, "{\"user\": \"set a timer for nine minutes\", \"handoff\": {}}", NULL, NULL, &out) == SLMRT_OK);
	CHECK(strstr(out, "\"stop\":\"handoff\"") != NULL && strstr(out, "\"outcome\":\"DEFER\",\"reason\":\"score\"") != NULL && strstr(out, "\"tokens\":0") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_generate(routed, "{\"user\": \"set a timer for nine minutes\", \"handoff\": {\"policy\": {\"version\": 1, \"privacy\": {\"may_leave\": []}}}}", NULL, NULL, &out) == SLMRT_OK);
	CHECK(strstr(out, "\"stop\":\"eos\"") != NULL && strstr(out, "\"outcome\":\"LOCAL_WITH_WARNING\",\"reason\":\"privacy\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_decide(routed, "{\"reading\": {\"checkpoint\": \"pre\", \"score\": 0.1}}", &out) == SLMRT_OK && strstr(out, "\"LOCAL\"") != NULL);
	slmrt_free_text(out);
	CHECK(slmrt_free(routed) == SLMRT_OK);
	CHECK(slmrt_describe(model, &out) == SLMRT_OK && strstr(out, "\"architecture\":\"llama\"") != NULL);
	slmrt_free_text(out);

	/* Freed once, and only once. */
	CHECK(slmrt_free(model) == SLMRT_OK);
	CHECK(slmrt_free(model) == SLMRT_USAGE);
	CHECK(slmrt_generate(model, QUESTION, NULL, NULL, &out) == SLMRT_USAGE);
	CHECK(slmrt_free(0) == SLMRT_OK);
	slmrt_free_text(NULL);

	/* Nothing is left of a model: no memory, no file, no thread. */
	long before = 0;
	int files = 0, tasks = 0;
	for (int i = 0; i < 150; i++) {
		slmrt_model m;
		struct heard all = {0};
		CHECK(slmrt_load(bundle, i % 2 ? "{\"threads\": 2}" : NULL, &m) == SLMRT_OK);
		CHECK(slmrt_generate(m, QUESTION, hear, &all, &out) == SLMRT_OK);
		slmrt_free_text(out);
		CHECK(slmrt_free(m) == SLMRT_OK);
		if (i == 50) {
			before = resident();
			files = count("/proc/self/fd");
			tasks = count("/proc/self/task");
		}
	}
	long grown = resident() - before;
	fprintf(stderr, "grown by %ld bytes in 99 rounds\n", grown);
	CHECK(grown < 6L << 20);
	CHECK(count("/proc/self/fd") == files);
	CHECK(count("/proc/self/task") <= tasks + 4);
	return 0;
}
