// What the processor can do at most: multiply-adds on registers alone (tiles, where it has AMX), on all threads at once.
// usage: peak N_THREADS -> one line of JSON, 10^9 operations a second (a multiply-add counts two), null without the
// instruction

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
typedef float vf __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float vf __attribute__((vector_size(32)));
#else
typedef float vf __attribute__((vector_size(16)));
#endif

constexpr int  N_ACC   = 12; // independent chains: more than latency times throughput, fewer than registers
constexpr long N_STEPS = 4000;

// keeps a value in a register, unknown to the optimiser
template <typename T> static inline void keep(T & x) {
#if defined(__x86_64__)
    __asm__ volatile("" : "+v"(x));
#else
    __asm__ volatile("" : "+w"(x));
#endif
}

// twelve chains by name: an array would live in memory
template <typename T, typename F> static inline void run(T zero, F step) {
    T a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero, h = zero, i = zero, j = zero, k = zero,
      l = zero;
    for (long n = 0; n < N_STEPS; ++n) {
        a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);
        g = step(g), h = step(h), i = step(i), j = step(j), k = step(k), l = step(l);
        keep(a), keep(b), keep(c), keep(d), keep(e), keep(f);
        keep(g), keep(h), keep(i), keep(j), keep(k), keep(l);
    }
}

static long run_f32() {
    vf a = vf{} + 0.5f, b = vf{} + 0.25f;
    keep(a);
    keep(b);
    run(vf{}, [&](vf c) { return c * a + b; });
    return 2 * (long) (sizeof(vf) / 4);
}

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

// may this process use the tiles: XFEATURE_XTILEDATA by ARCH_REQ_XCOMP_PERM
static bool amx_ready() {
    static const bool ready = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return ready;
}

// four sums of products of two tiles by two
#define RUN_TILES(product)                                                          \
    alignas(64) unsigned char config[64] = { 1 };                                   \
    for (int i = 0; i < 8; ++i) {                                                   \
        config[16 + 2 * i] = 64; /* bytes of a row */                               \
        config[48 + i]     = 16; /* rows */                                         \
    }                                                                               \
    __asm__ volatile("" : : "r"(config) : "memory");                                \
    _tile_loadconfig(config);                                                       \
    for (long n = 0; n < N_ACC * N_STEPS / 4; ++n) {                                \
        product(0, 4, 6);                                                           \
        product(1, 4, 7);                                                           \
        product(2, 5, 6);                                                           \
        product(3, 5, 7);                                                           \
    }                                                                               \
    _tile_release();

static long run_amx_bf16() {
    RUN_TILES(_tile_dpbf16ps)
    return 2 * 16 * 16 * 32;
}

static long run_amx_int8() {
    RUN_TILES(_tile_dpbssd)
    return 2 * 16 * 16 * 64;
}
#else
[[maybe_unused]] static bool amx_ready() { return false; }
[[maybe_unused]] static long run_amx_bf16() { return 0; }
[[maybe_unused]] static long run_amx_int8() { return 0; }
#endif

#if defined(__AVX512BF16__)
#define HAVE_BF16
static long run_bf16() {
    __m512i a = _mm512_set1_epi32(0x3f003f00), b = a; // 0.5
    keep(a);
    keep(b);
    run(_mm512_setzero_ps(), [&](__m512 c) { return _mm512_dpbf16_ps(c, (__m512bh) a, (__m512bh) b); });
    return 2 * 32;
}
#endif

#if defined(__AVX512VNNI__)
#define HAVE_INT8
static long run_int8() {
    __m512i a = _mm512_set1_epi8(3), b = a;
    keep(a);
    keep(b);
    run(_mm512_setzero_si512(), [&](__m512i c) { return _mm512_dpbusd_epi32(c, a, b); });
    return 2 * 64;
}
#elif defined(__AVXVNNI__)
#define HAVE_INT8
static long run_int8() {
    __m256i a = _mm256_set1_epi8(3), b = a;
    keep(a);
    keep(b);
    run(_mm256_setzero_si256(), [&](__m256i c) { return _mm256_dpbusd_avx_epi32(c, a, b); });
    return 2 * 32;
}
#endif

// the best of several short stretches in which all threads run; 10^9 operations a second
static double measure(int n_threads, long (*pass)()) {
    using clock = std::chrono::steady_clock;

    double best = 0.0;
    for (int i = 0; i < 6; ++i) {
        std::atomic<int>         ready(0);
        std::vector<double>      rate(n_threads);
        std::vector<std::thread> threads;
        for (int t = 0; t < n_threads; ++t) {
            threads.emplace_back([&, t] {
                ready++;
                while (ready.load() < n_threads) {
                    std::this_thread::yield();
                }
                const auto start = clock::now();
                double     n_ops = 0.0, seconds = 0.0;
                while (seconds < 0.05) {
                    n_ops += (double) pass() * N_ACC * N_STEPS;
                    seconds = std::chrono::duration<double>(clock::now() - start).count();
                }
                rate[t] = n_ops / seconds;
            });
        }
        double sum = 0.0;
        for (int t = 0; t < n_threads; ++t) {
            threads[t].join();
            sum += rate[t];
        }
        best = std::max(best, sum * 1e-9);
    }
    return best;
}

int main(int argc, char ** argv) {
    const int n_threads = argc > 1 ? std::max(1, atoi(argv[1])) : 1;

    printf("{\"f32\": %.1f", measure(n_threads, run_f32));
#if defined(HAVE_BF16)
    printf(", \"bf16\": %.1f", measure(n_threads, amx_ready() ? run_amx_bf16 : run_bf16));
#else
    printf(", \"bf16\": null");
#endif
#if defined(HAVE_INT8)
    printf(", \"int8\": %.1f}\n", measure(n_threads, amx_ready() ? run_amx_int8 : run_int8));
#else
    printf(", \"int8\": null}\n");
#endif
    return 0;
}
