/* The two functions by which torch's CPU build multiplies matrices in fp32, handed on to OpenBLAS.

   Preloaded, they stand before the ones of the MKL in torch's own library, which takes other ways on processors
   of other makers. valley/kernels.py compiles this file and says why. OPENBLAS is the path of scipy-openblas32's
   library. It is opened at the first product, so that programs that multiply nothing do not wait for it. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *of_openblas(const char *name) {
    void *library = dlopen(OPENBLAS, RTLD_NOW | RTLD_LOCAL);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "error: %s\n", dlerror());
        abort();
    }
    return function;
}

void sgemm_(const char *transa, const char *transb, const int *m, const int *n, const int *k, const float *alpha,
            const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
            const int *ldc) {
    static __typeof__(&sgemm_) product;
    if (!product) product = of_openblas("scipy_sgemm_");
    product(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* One product after another: OpenBLAS's own function of this name crashes in 0.3.34. */
void cblas_sgemm_batch(int layout, const int *transa, const int *transb, const int *m, const int *n, const int *k,
                       const float *alpha, const float **a, const int *lda, const float **b, const int *ldb,
                       const float *beta, float **c, const int *ldc, int groups, const int *sizes) {
    static void (*product)(int, int, int, int, int, int, float, const float *, int, const float *, int, float,
                           float *, int);
    if (!product) product = of_openblas("scipy_cblas_sgemm");
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < sizes[g]; i++, a++, b++, c++)
            product(layout, transa[g], transb[g], m[g], n[g], k[g], alpha[g], *a, lda[g], *b, ldb[g], beta[g], *c,
                    ldc[g]);
}
