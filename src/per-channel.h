#pragma once

#include "ggml-backend.h"

// Where products with Q8_0 weights have one scale per row and one per token (a patch); nullptr if the CPU backend has
// no such buffers.
ggml_backend_buffer_type_t per_channel_buffer_type();
