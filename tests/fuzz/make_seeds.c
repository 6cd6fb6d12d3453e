/* SPDX-License-Identifier: MIT */
/* Writes valid tiny models into a folder, to start the fuzzer from: make_seeds FOLDER */
#include "../unit/tiny_model.h"

static int write_seed(const char *folder, const char *name, const tiny_options *options, int value_size)
{
    tiny_options chosen = *options;
    chosen.value_size = value_size;
    tiny_model *tiny = tiny_make(&chosen);
    if (!strcmp(name, "short_range")) tiny_add_short_range(tiny, "1.0 0 0.9 1.2 1.1 1.2", "1.5 0 1.2 1.4 1.2 1.5");
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    char path[4096];
    snprintf(path, sizeof path, "%s/%s_%d.safetensors", folder, name, value_size);
    FILE *file = fopen(path, "wb");
    int written = file && fwrite(bytes, 1, size, file) == size;
    if (file && fclose(file)) written = 0;
    if (!written) fprintf(stderr, "make_seeds: cannot write %s\n", path);
    free(bytes);
    tiny_free(tiny);
    return written;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds FOLDER\n");
        return 2;
    }
    tiny_options smallest = tiny_gaussian;
    smallest.features = smallest.interactions = smallest.radial_functions = smallest.readout_features = 1;
    smallest.n_elements = 1;
    smallest.elements = "H";
    smallest.element_energies = "0";
    int good = 1;
    for (int value_size = 4; value_size <= 8; value_size += 4) {
        good &= write_seed(argv[1], "gaussian", &smallest, value_size);
        good &= write_seed(argv[1], "bessel", &tiny_bessel, value_size);
    }
    good &= write_seed(argv[1], "layers", &tiny_gaussian, 4);
    good &= write_seed(argv[1], "short_range", &tiny_gaussian, 4);
    return good ? 0 : 1;
}
