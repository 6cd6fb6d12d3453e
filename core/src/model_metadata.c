/* SPDX-License-Identifier: MIT */
/* The metadata of a model file: strict numbers, the same in every locale, and the ranges of docs/model-file.md. */
#define _GNU_SOURCE /* strtod_l */
#include "model_file.h"
#include "status.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const char *const required_keys[] = {
    "mlff_format",      "architecture",    "features",         "interactions", "radial",
    "radial_functions", "cutoff_function", "cutoff",           "epsilon",      "vector_bias",
    "readout_features", "elements",        "energy_unit",      "length_unit",  "scale",
    "shift",            "element_energies", "provenance",      "licence",
};
enum { n_required_keys = sizeof required_keys / sizeof required_keys[0] };

/* All of them, or none. */
enum { SHORT_RANGE, SHORT_RANGE_INNER, SHORT_RANGE_OUTER, n_short_range_keys };
static const char *const short_range_keys[] = {"short_range", "short_range_inner", "short_range_outer"};

static const char *const symbols[MLFF_MAX_ELEMENTS] = {
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S",
    "Cl", "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge",
    "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd",
    "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd",
    "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg",
    "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn",
    "Nh", "Fl", "Mc", "Lv", "Ts", "Og"};
/* clang-format on */

typedef struct metadata_reader {
    const safetensors_file *file;
    locale_t c_locale;
    mlff_error *error;
} metadata_reader;

static const char *find(const safetensors_file *file, const char *key)
{
    for (size_t k = 0; k < file->n_metadata; k++) {
        if (!strcmp(file->metadata[k].key, key)) return file->metadata[k].value;
    }
    return NULL;
}

static mlff_status missing(const metadata_reader *r, const char *key)
{
    return mlff_fail(r->error, MLFF_ERROR_FORMAT,
                     "%s: metadata '%s' is missing, expected the keys of docs/model-file.md; mlff-convert makes model "
                     "files from checkpoints",
                     r->file->name, key);
}

static mlff_status wrong(const metadata_reader *r, const char *key, const char *expected)
{
    return mlff_fail(r->error, MLFF_ERROR_FORMAT, "%s: metadata '%s': found '%s', expected %s", r->file->name, key,
                     mlff_quote(find(r->file, key)).text, expected);
}

/* Version and architecture come first: what else must be there depends on them. */
static mlff_status check_version(const metadata_reader *r)
{
    static const char *const what[][2] = {{"mlff_format", "1"}, {"architecture", "painn"}};
    for (size_t k = 0; k < 2; k++) {
        const char *value = find(r->file, what[k][0]);
        if (!value) return missing(r, what[k][0]);
        if (strcmp(value, what[k][1])) {
            return mlff_fail(r->error, MLFF_ERROR_UNSUPPORTED,
                             "%s: metadata '%s': found '%s', expected '%s', the only one that mlff " MLFF_VERSION
                             " knows",
                             r->file->name, what[k][0], mlff_quote(value).text, what[k][1]);
        }
    }
    return MLFF_OK;
}

static mlff_status check_keys(const metadata_reader *r)
{
    for (size_t k = 0; k < n_required_keys; k++) {
        if (!find(r->file, required_keys[k])) return missing(r, required_keys[k]);
    }
    int n_short_range = 0;
    for (int k = 0; k < n_short_range_keys; k++) n_short_range += find(r->file, short_range_keys[k]) != NULL;
    for (int k = 0; k < n_short_range_keys && n_short_range > 0; k++) {
        if (!find(r->file, short_range_keys[k])) return missing(r, short_range_keys[k]);
    }
    for (size_t m = 0; m < r->file->n_metadata; m++) {
        const char *key = r->file->metadata[m].key;
        int known = !strncmp(key, "info.", 5);
        for (size_t k = 0; k < n_required_keys && !known; k++) known = !strcmp(key, required_keys[k]);
        for (int k = 0; k < n_short_range_keys && !known; k++) known = !strcmp(key, short_range_keys[k]);
        if (!known) {
            return mlff_fail(r->error, MLFF_ERROR_FORMAT,
                             "%s: unknown metadata key '%s', expected the keys of docs/model-file.md or 'info.*'",
                             r->file->name, mlff_quote(key).text);
        }
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------------- values */

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Bytes of the number that text begins with, 0 if there is none: -?(digits[.digits]|.digits)(e[+-]digits)?, the
 * decimals may be empty. Hexadecimal numbers, "nan", "inf" and blanks, which strtod takes, are no numbers here. */
static size_t number_length(const char *text)
{
    const char *p = text;
    if (*p == '-') p++;
    size_t n_digits = 0;
    for (; is_digit(*p); p++) n_digits++;
    if (*p == '.') {
        for (p++; is_digit(*p); p++) n_digits++;
    }
    if (n_digits == 0) return 0;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        if (!is_digit(*p)) return 0;
        while (is_digit(*p)) p++;
    }
    return (size_t)(p - text);
}

/* Reads the number that *text begins with and moves past it. Returns 0 if there is none that a double can hold. */
static int take_number(const metadata_reader *r, const char **text, double *value)
{
    size_t n = number_length(*text);
    if (n == 0) return 0;
    char *end;
    int caller_errno = errno;
    errno = 0;
    *value = strtod_l(*text, &end, r->c_locale);
    int in_range = errno == 0 && isfinite(*value);
    errno = caller_errno;
    if (!in_range || end != *text + n) return 0;
    *text = end;
    return 1;
}

static mlff_status read_number(const metadata_reader *r, const char *key, double least, double most,
                               const char *expected, double *value)
{
    const char *text = find(r->file, key);
    if (!take_number(r, &text, value) || *text || *value < least || *value > most) return wrong(r, key, expected);
    return MLFF_OK;
}

/* An integer 1..most, without sign or leading zeros. */
static mlff_status read_integer(const metadata_reader *r, const char *key, int most, const char *expected, int *value)
{
    const char *text = find(r->file, key);
    int n = 0;
    for (; is_digit(*text) && n <= most; text++) {
        n = 10 * n + (*text - '0');
        if (n == 0) break;
    }
    if (*text || n < 1 || n > most) return wrong(r, key, expected);
    *value = n;
    return MLFF_OK;
}

static mlff_status read_choice(const metadata_reader *r, const char *key, const char *const choices[2],
                               const char *expected, int *choice)
{
    const char *text = find(r->file, key);
    for (*choice = 0; *choice < 2; (*choice)++) {
        if (choices[*choice] && !strcmp(text, choices[*choice])) return MLFF_OK;
    }
    return wrong(r, key, expected);
}

static mlff_status read_elements(const metadata_reader *r, struct mlff_model *model)
{
    const char *key = "elements";
    const char *text = find(r->file, key);
    model->elements = calloc(MLFF_MAX_ELEMENTS, sizeof *model->elements);
    if (!model->elements) {
        return mlff_fail(r->error, MLFF_ERROR_MEMORY, "%s: cannot allocate %zu bytes for the elements", r->file->name,
                         MLFF_MAX_ELEMENTS * sizeof *model->elements);
    }
    int n = 0;
    for (;;) {
        size_t length = strcspn(text, " ");
        const char *symbol = NULL;
        for (int z = 0; z < MLFF_MAX_ELEMENTS && !symbol; z++) {
            if (strlen(symbols[z]) == length && !strncmp(symbols[z], text, length)) symbol = symbols[z];
        }
        if (!symbol) return wrong(r, key, "chemical symbols separated by one space, as 'H C O'");
        for (int k = 0; k < n; k++) {
            if (model->elements[k] == symbol) return wrong(r, key, "each chemical symbol once");
        }
        model->elements[n++] = symbol; /* at most 118, for none is there twice */
        text += length;
        if (!*text) break;
        text++;
    }
    model->info.n_elements = n;
    model->info.elements = model->elements;
    return MLFF_OK;
}

/* atom_shift: shift + element energy, in the file's unit of energy. */
static mlff_status read_element_energies(const metadata_reader *r, int n_elements, double shift, double *atom_shift)
{
    const char *key = "element_energies";
    const char *text = find(r->file, key);
    for (int k = 0; k < n_elements; k++) {
        double energy;
        if (!take_number(r, &text, &energy) || fabs(energy) > 1e9) {
            return wrong(r, key, "a number of -1e9 to 1e9 for each element, separated by one space");
        }
        atom_shift[k] = shift + energy;
        if (k + 1 < n_elements && *text++ != ' ') return wrong(r, key, "as many numbers as elements, one space apart");
    }
    if (*text) return wrong(r, key, "as many numbers as elements, one space apart");
    return MLFF_OK;
}

static int atomic_number(const char *symbol)
{
    int z = 0;
    while (strcmp(symbols[z], symbol) != 0) z++; /* it is one of them */
    return z + 1;
}

/* One number of a list of pairs, each followed by one space but the last. */
static mlff_status take_distance(const metadata_reader *r, const char *key, const char **text, int is_last,
                                 double *value)
{
    const char *expected = "a number of 0 to 100 (angstrom) for each pair of elements, separated by one space";
    if (!take_number(r, text, value) || *value < 0.0 || *value > 100.0) return wrong(r, key, expected);
    if (is_last ? **text != 0 : **text != ' ')
        return wrong(r, key, "as many numbers as pairs of elements, one space apart");
    *text += !is_last;
    return MLFF_OK;
}

static mlff_status check_distances(const metadata_reader *r, const struct mlff_model *model, int i, int j, double inner,
                                   double outer)
{
    if (inner == 0.0 && outer == 0.0) return MLFF_OK;
    if (outer >= SHORT_RANGE_LEAST && outer <= model->info.cutoff && inner <= outer - SHORT_RANGE_LEAST) return MLFF_OK;
    return mlff_fail(
        r->error, MLFF_ERROR_FORMAT,
        "%s: metadata '%s' and '%s': found %g and %g for %s-%s, expected outer of 0.01 to the cutoff %g and "
        "inner at most outer - 0.01 (angstrom), or both 0",
        r->file->name, short_range_keys[SHORT_RANGE_INNER], short_range_keys[SHORT_RANGE_OUTER], inner, outer,
        model->elements[i], model->elements[j], model->info.cutoff);
}

/* The distances of every pair; what the pair's nuclei give is made once. */
static mlff_status read_short_range(const metadata_reader *r, struct mlff_model *model)
{
    if (!find(r->file, short_range_keys[SHORT_RANGE])) return MLFF_OK;
    if (strcmp(find(r->file, short_range_keys[SHORT_RANGE]), "zbl") != 0)
        return wrong(r, short_range_keys[SHORT_RANGE], "'zbl'");
    const int n = model->info.n_elements;
    const char *inner_key = short_range_keys[SHORT_RANGE_INNER], *outer_key = short_range_keys[SHORT_RANGE_OUTER];
    const char *inner_text = find(r->file, inner_key), *outer_text = find(r->file, outer_key);
    const size_t bytes = (size_t)n * (size_t)n * sizeof *model->short_range;
    model->short_range = calloc(1, bytes);
    if (!model->short_range)
        return mlff_fail(r->error, MLFF_ERROR_MEMORY, "%s: cannot allocate %zu bytes for the short range",
                         r->file->name, bytes);
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++) {
            const int is_last = i == n - 1;
            double inner, outer;
            MLFF_TRY(take_distance(r, inner_key, &inner_text, is_last, &inner));
            MLFF_TRY(take_distance(r, outer_key, &outer_text, is_last, &outer));
            MLFF_TRY(check_distances(r, model, i, j, inner, outer));
            model->short_range[i * n + j] = model->short_range[j * n + i] = mlff_short_range_pair(
                atomic_number(model->elements[i]), atomic_number(model->elements[j]), inner, outer);
        }
    return MLFF_OK;
}

static mlff_status read_text(const metadata_reader *r, const char *key)
{
    return *find(r->file, key) ? MLFF_OK : wrong(r, key, "a text that is not empty");
}

/* ----------------------------------------------------------------------------------------- all of it */

static mlff_status read_sizes(const metadata_reader *r, struct mlff_model *model)
{
    mlff_model_info *info = &model->info;
    MLFF_TRY(read_integer(r, "features", 1024, "an integer of 1 to 1024", &info->features));
    MLFF_TRY(read_integer(r, "interactions", MLFF_MAX_INTERACTIONS, "an integer of 1 to 16", &info->interactions));
    MLFF_TRY(read_integer(r, "radial_functions", 256, "an integer of 1 to 256", &info->radial_functions));
    MLFF_TRY(read_integer(r, "readout_features", 1024, "an integer of 1 to 1024", &model->readout_features));
    return read_elements(r, model);
}

static mlff_status read_functions(const metadata_reader *r, struct mlff_model *model)
{
    static const char *const radials[2] = {[RADIAL_GAUSSIAN] = "gaussian", [RADIAL_BESSEL] = "bessel"};
    static const char *const cutoff_functions[2] = {"cosine"};
    static const char *const truths[2] = {"false", "true"};
    static const char *const length_units[2] = {"angstrom"};
    mlff_model_info *info = &model->info;
    int choice;
    MLFF_TRY(read_choice(r, "radial", radials, "'gaussian' or 'bessel'", &choice));
    model->radial = (radial_kind)choice;
    info->radial = radials[choice];
    MLFF_TRY(read_choice(r, "cutoff_function", cutoff_functions, "'cosine'", &choice));
    MLFF_TRY(read_choice(r, "vector_bias", truths, "'true' or 'false'", &info->vector_bias));
    MLFF_TRY(read_choice(r, "length_unit", length_units, "'angstrom'", &choice));
    MLFF_TRY(read_number(r, "cutoff", 0.1, 100.0, "a number of 0.1 to 100 (angstrom)", &info->cutoff));
    return read_number(r, "epsilon", 0.0, 1.0, "a number of 0 to 1", &info->epsilon);
}

static mlff_status read_energies(const metadata_reader *r, struct mlff_model *model, double *atom_shift)
{
    static const char *const energy_units[2] = {"eV", "kcal/mol"};
    static const double in_eV[2] = {1.0, MLFF_EV_IN_KCAL_PER_MOL};
    const char *expected = "a number of -1e9 to 1e9";
    int unit;
    double shift;
    MLFF_TRY(read_choice(r, "energy_unit", energy_units, "'eV' or 'kcal/mol'", &unit));
    MLFF_TRY(read_number(r, "scale", -1e9, 1e9, expected, &model->scale));
    MLFF_TRY(read_number(r, "shift", -1e9, 1e9, expected, &shift));
    MLFF_TRY(read_element_energies(r, model->info.n_elements, shift, atom_shift));
    model->info.energy_unit = energy_units[unit];
    model->scale /= in_eV[unit];
    for (int k = 0; k < model->info.n_elements; k++) atom_shift[k] /= in_eV[unit];
    return MLFF_OK;
}

static mlff_status read_all(const metadata_reader *r, struct mlff_model *model, double *atom_shift)
{
    MLFF_TRY(check_version(r));
    MLFF_TRY(check_keys(r));
    model->info.architecture = "painn";
    MLFF_TRY(read_sizes(r, model));
    MLFF_TRY(read_functions(r, model));
    MLFF_TRY(read_energies(r, model, atom_shift));
    MLFF_TRY(read_short_range(r, model));
    MLFF_TRY(read_text(r, "provenance"));
    return read_text(r, "licence");
}

mlff_status mlff_model_read_metadata(const safetensors_file *file, struct mlff_model *model, double *atom_shift,
                                     mlff_error *error)
{
    metadata_reader reader = {file, newlocale(LC_ALL_MASK, "C", (locale_t)0), error};
    if (!reader.c_locale) {
        return mlff_fail(error, MLFF_ERROR_MEMORY, "%s: cannot make the C locale, in which numbers are read",
                         file->name);
    }
    mlff_status status = read_all(&reader, model, atom_shift);
    freelocale(reader.c_locale);
    return status;
}
