#include "api/build_info.h"

#include "backend/devices.h"
#include "common/error.h"
#include "common/json.h"
#include "kernels/isa.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <thread>

namespace actquant {

std::string build_info() {
    JsonWriter json;
    json.begin_object();
    json.member("actquant_version", ACTQUANT_VERSION);
    json.member("ggml_version", ggml_version());
    json.member("compiler", ACTQUANT_COMPILER);
    json.member("native", bool(ACTQUANT_NATIVE));
    json.member("kernels", isa_name(usable_isa()));
    json.key("cpu_features");
    json.begin_array();
    auto get_features = reinterpret_cast<ggml_backend_get_features_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_get_features"));
    for (const ggml_backend_feature* feature = get_features(ggml_backend_cpu_reg());
         feature->name != nullptr; feature++) {
        json.value(feature->name);
    }
    json.end_array();
    json.key("devices");
    json.begin_array();
    for (const Device& device : present_devices()) {
        json.value(device.name);
    }
    json.end_array();
    json.member("hardware_threads", std::thread::hardware_concurrency());
    json.end_object();
    return json.text();
}

void check_cpu() {
#if defined(__x86_64__) && defined(__GNUC__)
    // ggml_cpu_has_* say what was compiled in, __builtin_cpu_supports what this CPU has.
    std::string missing;
    auto require = [&](const char* name, int is_compiled_in, int is_supported) {
        if (is_compiled_in && !is_supported) {
            missing += std::string(" ") + name;
        }
    };
    __builtin_cpu_init();
    require("AVX", ggml_cpu_has_avx(), __builtin_cpu_supports("avx"));
    require("AVX2", ggml_cpu_has_avx2(), __builtin_cpu_supports("avx2"));
    require("FMA", ggml_cpu_has_fma(), __builtin_cpu_supports("fma"));
    require("F16C", ggml_cpu_has_f16c(), __builtin_cpu_supports("f16c"));
    require("BMI2", ggml_cpu_has_bmi2(), __builtin_cpu_supports("bmi2"));
    require("AVX512", ggml_cpu_has_avx512(),
            __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
    require("AVX512_VBMI", ggml_cpu_has_avx512_vbmi(), __builtin_cpu_supports("avx512vbmi"));
    require("AVX512_VNNI", ggml_cpu_has_avx512_vnni(), __builtin_cpu_supports("avx512vnni"));
    require("AVX512_BF16", ggml_cpu_has_avx512_bf16(), __builtin_cpu_supports("avx512bf16"));
    if (!missing.empty()) {
        throw Error("this build needs CPU instructions that this machine lacks:" + missing +
                    ". Build actquant on this machine from source" +
                    (ACTQUANT_NATIVE ? ", or for any with AVX2 by -DGGML_NATIVE=OFF."
                                     : " (packages are built for processors with AVX2)."));
    }
#endif
}

} // namespace actquant
