// What actquant-run reads beside the policy: a PNG or JPEG, or an .npy.
#include "arguments.h"
#include "image_file.h"
#include "memory_file.h"
#include "npy_file.h"

using namespace actquant;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzzing::MemoryFile file(data, size);
    try {
        tools::read_image(file.path());
    } catch (const tools::UsageError&) {
    }
    try {
        tools::read_npy(file.path());
    } catch (const tools::UsageError&) {
    }
    return 0;
}
