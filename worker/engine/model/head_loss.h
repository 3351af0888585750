#pragma once

#include <cstdint>

#include "torch/types.h"
#include "worker/engine/model/decoder.h"

namespace teq::model {

// Losses of what the head reads. The vocabulary is gone through in slices, so that no tensor of
// tokens x vocabulary is ever made; where a gradient is needed, it is computed on the way forward
// and the way back is free. The head is frozen: it gets no gradient.

/// Mean over the tokens of -log softmax(logits)[next]. `states`: [tokens, embedding_size]; `next`:
/// int64 [tokens]. Differentiable in the states.
[[nodiscard]] torch::Tensor HeadCrossEntropy(const Decoder& decoder, const torch::Tensor& states,
                                             const torch::Tensor& next);

/// The same by token, [tokens], without a gradient.
[[nodiscard]] torch::Tensor HeadTokenLosses(const Decoder& decoder, const torch::Tensor& states,
                                            const torch::Tensor& next);

/// The tokens that follow in the text, and their share of the distribution that they are mixed
/// into.
struct NextTokens {
  torch::Tensor ids;  // int64, [...]; -1 where nothing follows. Undefined: not mixed
  double share = 0;   // 0 to 1
};

/// What the divergence from a fixed distribution p needs of it, by token. Logits are linear in the
/// states x, so that with p's mean of the head's rows, m = sum_j p_j W_j, the whole of p is not
/// needed: KL(p || q) = m (x_p - x_q) + lse(x_q) - lse(x_p), lse the log of the sum of exp(logits).
/// With the tokens that follow mixed into p, m is mixed likewise, and the loss is
/// (1 - share) KL(p || q) + share (CE(q) - CE(p)), CE the next token's cross-entropy: 0 at q = p.
struct HeadReference {
  torch::Tensor states;    // x_p, [..., embedding_size]
  torch::Tensor mean_row;  // m, the same shape; undefined with a soft cap, which is not linear
  torch::Tensor log_sum;   // lse(x_p), [...]; undefined likewise
  NextTokens next;         // with a soft cap alone
};

/// `states`: [..., embedding_size]. No gradient.
[[nodiscard]] HeadReference MakeHeadReference(const Decoder& decoder, const torch::Tensor& states,
                                              const NextTokens& next = {});

/// The windows of a reference by index, on a device.
[[nodiscard]] HeadReference Select(const HeadReference& reference, const torch::Tensor& indices,
                                   const torch::Device& device);

/// Mean over the tokens of KL(reference || softmax(logits)), or of what HeadReference says where
/// next tokens are mixed into it, by float32 products whatever the decoder's: it is a small
/// difference of large numbers. `states`: shaped as the reference's. Differentiable in the states.
[[nodiscard]] torch::Tensor HeadDivergence(const Decoder& decoder, const torch::Tensor& states,
                                           const HeadReference& reference);

}  // namespace teq::model
