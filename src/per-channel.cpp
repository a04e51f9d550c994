#include "per-channel.h"

ggml_backend_buffer_type_t per_channel_buffer_type() {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!dev) {
        return nullptr;
    }

    void * get = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev),
                                                   "ggml_backend_cpu_per_channel_buffer_type");

    return get ? ((ggml_backend_buffer_type_t(*)()) get)() : nullptr;
}
