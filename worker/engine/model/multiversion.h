#pragma once

// The compiler makes one copy of a function for each instruction set, and the loader picks. The
// sanitizers cannot start programs that pick functions at load time.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    defined(__GNUC__) && !defined(__clang__)
#define TEQ_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "sse4.1", "default")))
#else
#define TEQ_MULTIVERSION
#endif
