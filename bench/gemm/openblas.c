// The three products of a linear layer in OpenBLAS, one thread, the fastest of
// 60 runs each: what bench/gemm.md compares internal/train's product with.
//
//	gcc -O2 bench/gemm/openblas.c -o openblas -lopenblas && OPENBLAS_CORETYPE=SkylakeX ./openblas
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern char *openblas_get_corename(void);
extern void openblas_set_num_threads(int);

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void run(const char *name, int M, int N, int K, int ta, int tb, float beta) {
	float *a = malloc(4l * M * K), *b = malloc(4l * K * N), *c = calloc((size_t)M * N, 4);
	for (long i = 0; i < (long)M * K; i++) a[i] = i % 17 / 17.f - .5f;
	for (long i = 0; i < (long)K * N; i++) b[i] = i % 13 / 13.f - .5f;
	double best = 1e9;
	for (int i = 0; i < 60; i++) {
		double t = now();
		cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
			M, N, K, 1, a, ta ? M : K, b, tb ? K : N, beta, c, N);
		t = now() - t;
		if (t < best) best = t;
	}
	printf("%-8s %-10s %.1f GFLOP/s\n", openblas_get_corename(), name, 2.0 * M * N * K / best / 1e9);
	free(a), free(b), free(c);
}

int main(void) {
	openblas_set_num_threads(1);
	run("y=xW'", 512, 1536, 576, 0, 1, 0);
	run("dx=dyW", 512, 576, 1536, 0, 0, 0);
	run("dW+=dy'x", 1536, 576, 512, 1, 0, 1);
	return 0;
}
