#pragma once

#include "llama.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// What the upstreams spell in different ways, in one place. The choice is made by what llama.h declares, with no
// macros: the overload that names a member or a function that is not there drops out, and the one after it is taken.

namespace llama_compat {

template <typename params> auto enable_flash_attn(params & p, int) -> decltype((void) p.flash_attn_type) {
    p.flash_attn_type = (decltype(p.flash_attn_type)) 1; // LLAMA_FLASH_ATTN_TYPE_ENABLED
}

// before September 2025
template <typename params> auto enable_flash_attn(params & p, long) -> decltype((void) p.flash_attn) {
    p.flash_attn = true;
}

template <typename model> auto ftype(const model * m, int) -> decltype(llama_model_ftype(m)) {
    return llama_model_ftype(m);
}

// older releases do not tell: what the file says of itself, LLAMA_FTYPE_ALL_F32 (the most exact) if it does not
template <typename model> llama_ftype ftype(const model * m, long) {
    char buf[16] = "0";
    llama_model_meta_val_str(m, "general.file_type", buf, sizeof(buf));
    return (llama_ftype) atoi(buf);
}

using tensor_types = std::vector<std::pair<std::string, int32_t>>;

// returns what the parameters then point to
template <typename params>
auto set_tensor_types(params & p, const tensor_types & types, int) -> decltype((void) p.tt_overrides,
                                                                               std::shared_ptr<void>()) {
    using item = std::remove_const_t<std::remove_pointer_t<decltype(p.tt_overrides)>>;

    auto items = std::make_shared<std::vector<item>>();
    for (const auto & type : types) {
        items->push_back({ type.first.c_str(), (ggml_type) type.second });
    }
    items->push_back({ nullptr, GGML_TYPE_COUNT });
    p.tt_overrides = items->data();
    return items;
}

// before 2026: a std::vector of this, which llama.h does not declare
struct tensor_quantization {
    std::string name;
    ggml_type   quant;
};

template <typename params>
auto set_tensor_types(params & p, const tensor_types & types, long) -> decltype((void) p.tensor_types,
                                                                                std::shared_ptr<void>()) {
    auto items = std::make_shared<std::vector<tensor_quantization>>();
    for (const auto & type : types) {
        items->push_back({ type.first, (ggml_type) type.second });
    }
    p.tensor_types = items.get();
    return items;
}

} // namespace llama_compat

inline void llama_compat_enable_flash_attn(llama_context_params & params) {
    llama_compat::enable_flash_attn(params, 0);
}

inline llama_ftype llama_compat_ftype(const llama_model * model) {
    return llama_compat::ftype(model, 0);
}

// Puts patterns of tensor names and their types (enum ggml_type) into the parameters of llama_model_quantize; must
// outlive the call, as must types.
struct llama_compat_tensor_types {
    llama_compat_tensor_types(llama_model_quantize_params & params, const llama_compat::tensor_types & types)
        : owned(llama_compat::set_tensor_types(params, types, 0)) {}

    const std::shared_ptr<void> owned;
};
