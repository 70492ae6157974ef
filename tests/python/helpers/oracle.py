"""A slow second way to corrected counts: scvi-tools' own generative outputs, numpy and scipy.

It shares no code with scvibridge.
"""

from __future__ import annotations

import hashlib

import numpy as np
import scipy.spatial
import scipy.stats
import torch

MIN_CELLS, MIN_DETECTED = 20, 5
MIN_SAMPLE_CELLS, PRIOR_COUNTS = 10, 2


def hashes(names):
    """BLAKE2b-64 of names, little endian."""
    return [
        int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest(), "little") for n in names
    ]


def philox(counter, key):
    """Philox4x32-10 of arrays of 32-bit words held in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        high0, high1 = product0 >> np.uint64(32), product1 >> np.uint64(32)
        low0, low1 = product0 & np.uint64(0xFFFFFFFF), product1 & np.uint64(0xFFFFFFFF)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def uniforms(cells, genes, seed):
    """The uniforms u and v of all entries, each of shape (cells, genes)."""
    cell, gene = (np.array(hashes(names), dtype=np.uint64) for names in (cells, genes))
    cell, gene = np.broadcast_arrays(cell[:, None], gene[None, :])
    low, word = np.uint64(0xFFFFFFFF), np.uint64(32)
    words = philox((cell & low, cell >> word, gene & low, gene >> word), (seed, 0))
    bits = [((words[i] << word) | words[i + 1]) >> np.uint64(11) for i in (0, 2)]
    return [(b | np.uint64(1)).astype(float) * 2.0**-53 for b in bits]


def distribution_at_mean(model, batch=None):
    """scvi-tools' distribution of all cells, z and the library at their posterior means."""
    module = model.module.eval()
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=model.adata.n_obs)))
    with torch.inference_mode():
        encoded = module.inference(**module._get_inference_input(tensors))
        encoded["z"] = encoded["qz"].loc
        if encoded["ql"] is not None:
            encoded["library"] = encoded["ql"].loc
        inputs = module._get_generative_input(tensors, encoded)
        return module.generative(**inputs, transform_batch=batch)["px"]


def generative(model, batch):
    """Parameters of that distribution as if from `batch`, in double precision."""
    px = distribution_at_mean(model, batch)
    shape = model.adata.shape
    theta = getattr(px, "theta", None)
    logits = getattr(px, "zi_logits", None)
    return {
        "scale": px.scale.double().numpy(),
        "mean": getattr(px, "mu", getattr(px, "rate", None)).double().numpy(),
        "theta": None if theta is None else np.broadcast_to(theta.double().numpy(), shape),
        "logits": None if logits is None else logits.double().numpy(),
    }


def mixed(parts):
    """Frequencies and dropout averaged over batches, and the reciprocals of theta."""
    out = {"scale": np.mean([p["scale"] for p in parts], axis=0), "theta": None, "logits": None}
    if parts[0]["theta"] is not None:
        out["theta"] = 1 / np.mean([1 / p["theta"] for p in parts], axis=0)
    if parts[0]["logits"] is not None:
        pi = np.mean([scipy.special.expit(p["logits"]) for p in parts], axis=0)
        out["logits"] = scipy.special.logit(pi)
    return out


def group_mean(values, batch, labels, targets, condition=None, among=True):
    """Mean over each cell's batch and label, or its batch where that group is no good.

    Conditions weigh equally, if they are given. Only the cells `among` are averaged.
    """
    condition = np.zeros(len(batch)) if condition is None else condition
    result = np.empty_like(values)
    for n in range(len(values)):
        own = (batch == batch[n]) & among
        if labels is not None:
            group = own & (labels == labels[n])
            in_target = (np.isin(batch, targets) & (labels == labels[n]) & among).any()
            own = group if group.sum() >= MIN_CELLS and in_target else own
        parts = [own & (condition == c) for c in set(condition[own])]
        result[n] = np.mean([values[part].mean(axis=0) for part in parts], axis=0)
    return result


def believed(own, target, kappa):
    """Share of an effect between two groups that is believed, from their counts of each gene."""
    with np.errstate(divide="ignore"):
        told = 1 / (1 / own + 1 / target)
    return told / (told + kappa)


def shrunk_mean(values, counts, batch, labels, targets, kappas):
    """As :func:`group_mean`: a D_batch + b (D_label - D_batch)."""
    result = np.empty_like(values)
    in_target = np.isin(batch, targets)
    for n in range(len(values)):
        own, same = batch == batch[n], np.ones(len(batch), dtype=bool)
        mean = values[own].mean(axis=0)
        result[n] = mean * believed(counts[own].sum(0), counts[in_target].sum(0), kappas[0])
        if labels is not None:
            same = labels == labels[n]
        if labels is not None and (own & same).sum() >= MIN_CELLS and (same & in_target).any():
            share = believed(counts[own & same].sum(0), counts[in_target & same].sum(0), kappas[1])
            result[n] += share * (values[own & same].mean(axis=0) - mean)
    return result


def latent_means(model):
    """Posterior means of z of all cells, by scvi-tools."""
    return np.asarray(model.get_latent_representation(), dtype=float)


def memberships(z, names, among):
    """Gaussian kernels around 20 points that k-means finds among some cells, with sums of 1.

    It starts from the cells whose names have the smallest hashes.
    """
    order = sorted(np.flatnonzero(among), key=lambda n: hashes([names[n]])[0])[:4000]
    cells = z[order]
    points = cells[: min(20, int(np.ceil(len(cells) / 20)))]
    for _ in range(20):
        nearest = scipy.spatial.distance.cdist(cells, points).argmin(axis=1)
        points = np.stack(
            [
                cells[nearest == j].mean(0) if (nearest == j).any() else p
                for j, p in enumerate(points)
            ]
        )
    width = (scipy.spatial.distance.cdist(cells, points).min(axis=1) ** 2).mean()
    weights = np.exp(-(scipy.spatial.distance.cdist(z, points) ** 2) / (2 * width))
    return weights / weights.sum(axis=1, keepdims=True), points


def without_condition(z, batch, condition, among):
    """Latent means minus the mean place of the cells' condition, relative to other conditions."""
    moved = z.copy()
    for own in set(condition) - {None}:
        parts = []
        for b in sorted(set(batch[among])):
            cells = {c: among & (batch == b) & (condition == c) for c in set(condition) - {None}}
            means = {
                c: z[rows].mean(axis=0) for c, rows in cells.items() if rows.sum() >= MIN_CELLS
            }
            if own in means and len(means) > 1:
                parts.append(means[own] - np.mean(list(means.values()), axis=0))
        if parts:
            moved[condition == own] -= np.mean(parts, axis=0)
    return moved


def local_deviations(z, ratio, names, batch, condition, target):
    """How far the log ratio of each cell, fitted by memberships, is from the mean of its batch."""
    among = batch != target
    moved = without_condition(z, batch, condition, among)
    weights, points = memberships(moved, names, among)
    found = np.zeros_like(ratio)
    for b in set(batch) - {target}:
        own = np.flatnonzero(batch == b)
        levels = sorted(set(condition[own]) - {None}) or [None]
        parts = [own[[condition[n] == c for n in own]] for c in levels]
        # Each condition weighs as much as all cells over the number of conditions.
        root = [np.sqrt(sum(map(len, parts)) / len(parts) / len(rows)) for rows in parts]
        x, y = (
            np.concatenate(
                [r * (v[rows] - v[rows].mean(0)) for r, rows in zip(root, parts, strict=True)]
            )
            for v in (weights, ratio)
        )
        # The ridge penalty of 1, as further rows.
        x = np.concatenate([x, np.eye(x.shape[1])])
        y = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
        centre = np.mean([weights[rows].mean(axis=0) for rows in parts], axis=0)
        found[own] = (weights[own] - centre) @ beta
    nearest = scipy.spatial.distance.cdist(moved, points).argmin(axis=1)
    return found, nearest


def local_kappa(counts, expected, deviations, nearest, batch, target, held_out):
    """Counts at which half of the deviations is believed, from held-out cells near landmarks."""
    held = np.isin(np.arange(len(batch)), held_out)
    told = []

    def difference(own, other):
        sides = []
        for cells in (own, other):
            o, e = counts[cells].sum(axis=0), expected[cells].sum(axis=0)
            sides.append((o / max(o.sum(), 1e-300) * e.sum() / np.maximum(e, 1e-300), e))
        (o, e), (o_t, e_t) = sides
        return o_t - o, 1 / (1 / np.maximum(e, 1e-300) + 1 / np.maximum(e_t, 1e-300))

    for b in set(batch) - {target}:
        own, other = held & (batch == b), held & (batch == target)
        whole, _ = difference(own, other)
        seen = 1 / (
            1 / np.maximum(counts[batch == b].sum(axis=0), 1e-300)
            + 1 / np.maximum(counts[batch == target].sum(axis=0), 1e-300)
        )
        for place in sorted(set(nearest[own])):
            here, there = own & (nearest == place), other & (nearest == place)
            if not there.any():
                continue
            delta, precision = difference(here, there)
            told.append((deviations[here].mean(axis=0), delta - whole, precision, seen))
    x, y, w, p = (np.concatenate(parts) for parts in zip(*told, strict=True))

    def loss(log10):
        change = (p / (p + 10**log10) - 1) * x
        return (w * (y - change) ** 2)[x != 0].sum() + ((log10 - 1) / 1.5) ** 2

    grid = np.arange(-2, 6.05, 0.05)
    return 10 ** grid[np.argmin([loss(g) for g in grid])]


def kappas(model, target, labels, held_out):
    """Counts at which half of an effect is believed: of batches, then of labels."""
    adata = model.adata
    counts = np.asarray(adata.X.todense()).astype(int)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    source, there = generative(model, None), generative(model, target)
    ratio = np.log(there["scale"]) - np.log(source["scale"])
    expected = source["mean"]
    if source["logits"] is not None:
        expected = expected * scipy.special.expit(-source["logits"])
    ratio = np.where(low_detection(counts, batch, [target]), 0, ratio)
    held = np.isin(np.arange(len(batch)), held_out)
    found, base = [], {}
    for level in ("batch", "label"):
        told = []
        for b in set(batch) - {target}:
            for c in [None] if level == "batch" else sorted(set(labels)):
                same = np.ones(len(batch), dtype=bool) if c is None else labels == c
                own, other = same & (batch == b), same & (batch == target)
                if c is not None and (own.sum() < MIN_CELLS or not other.any()):
                    continue
                sums = [(counts[m & held].sum(0), expected[m & held].sum(0)) for m in (own, other)]
                (o, e), (o_t, e_t) = [(x / max(x.sum(), 1) * y.sum(), y) for x, y in sums]
                d = ratio[own].mean(axis=0) - (0 if c is None else ratio[batch == b].mean(axis=0))
                seen = 1 / (
                    1 / np.maximum(counts[own].sum(0), 1e-300)
                    + 1 / np.maximum(counts[other].sum(0), 1e-300)
                )
                if e.sum() == 0 or e_t.sum() == 0:
                    continue
                told.append((d, o_t / e_t - o / e - base.get(b, 0), 1 / (1 / e + 1 / e_t), seen))
                if level == "batch":
                    base[b] = (d, seen)
        x, y, w, p = (np.concatenate(parts) for parts in zip(*told, strict=True))
        use = x != 0

        def loss(log10, x=x, y=y, w=w, p=p, use=use):
            change = (p / (p + 10**log10) - 1) * x
            return (w * (y - change) ** 2)[use].sum() + ((log10 - 1) / 1.5) ** 2

        grid = np.arange(-2, 6.05, 0.05)
        found.append(10 ** grid[np.argmin([loss(g) for g in grid])])
        base = (
            {b: (seen / (seen + found[0]) - 1) * d for b, (d, seen) in base.items()}
            if level == "batch"
            else base
        )
    return found


def low_detection(counts, batch, targets, among=True):
    """Cells by genes: is the gene hardly seen in the cell's batch or the target?"""
    seen = (counts > 0) & np.broadcast_to(among, len(batch))[:, None]
    in_target = seen[np.isin(batch, targets)].sum(axis=0) < MIN_DETECTED
    return np.stack([(seen[batch == b].sum(axis=0) < MIN_DETECTED) | in_target for b in batch])


def scaled_depth(model, targets, labels_key="cell_type"):
    """The depth ratio "scaled" of each cell: see :func:`log_depth_ratio`."""
    obs = model.adata.obs
    totals = np.asarray(model.adata.X.sum(axis=1), dtype=float).ravel()
    batch = obs["batch"].astype(str).to_numpy()
    label = np.full(len(obs), "") if labels_key is None else obs[labels_key].astype(str).to_numpy()
    ratio = np.ones(len(totals))
    for own in set(batch):
        if {own} != set(targets):
            ratio[batch == own] = np.exp(log_depth_ratio(totals, batch, label, own, targets))
    return ratio


def log_depth_ratio(totals, batch, label, own, targets):
    """Log ratio of the depths of a batch and the target within labels, shrunk by its error."""
    cells = {
        c: (totals[np.isin(batch, targets) & (label == c)], totals[(batch == own) & (label == c)])
        for c in set(label)
    }
    cells = [pair for pair in cells.values() if min(map(len, pair)) > 0]
    harmonic = np.array([scipy.stats.hmean([len(a), len(b)]) for a, b in cells])
    logs = np.array([np.log(np.median(a)) - np.log(np.median(b)) for a, b in cells])
    d = (harmonic * logs).sum() / harmonic.sum()
    centred = np.concatenate([np.log(x) - np.log(np.median(x)) for pair in cells for x in pair])
    sigma = 1.4826 * np.median(abs(centred))
    sign = -1 if own in targets else 1  # of a target with the batch in it, its cells are in both
    of_label = [np.pi / 2 * sigma**2 * (1 / len(b) + sign / len(a)) for a, b in cells]
    variance = ((harmonic / harmonic.sum()) ** 2 * of_label).sum()
    return 0.0 if d == 0 else d * max(0.0, 1 - variance / d**2)


def sample_factors(counts, expected, samples):
    """Observed over expected counts of each cell's sample, a tuple that says all it shares."""
    factors = np.ones(counts.shape)
    for n, sample in enumerate(samples):
        own = [other == sample for other in samples]
        if sample is not None and sum(own) >= MIN_SAMPLE_CELLS:
            sums = counts[own].sum(axis=0) + PRIOR_COUNTS, expected[own].sum(axis=0) + PRIOR_COUNTS
            factors[n] = sums[0] / sums[1]
    return factors


def quantile(
    model,
    targets,
    depth,
    effect,
    labels=None,
    seed=0,
    samples=None,
    kappas=None,
    adata=None,
    parameters=generative,
    renormalise=True,
    residual=None,
    condition=None,
    estimate_on=True,
    genes_kept=(),
    deviations=None,
    mean_of=True,
):
    """Corrected counts of all of the model's cells; `targets` are codes, `depth` a ratio a cell.

    `samples` says of each cell what its sample is, together with batch, label and condition.
    Effects are shrunk where there are `kappas`. `adata` holds the RNA where that is but a part of
    the model's data, `parameters` gives those of a class whose module is called otherwise. The
    means of genes that were added to a model are not brought to a sum: not to `renormalise`.
    `residual` computes what is added to the log ratios, from the counts, the parameters under the
    observed batch, and the changes of log ratios and logits. Each `condition` weighs equally in
    effects that are not shrunk. Effects are means over the cells `estimate_on` (a mask) alone.
    `genes_kept` are positions of genes that keep their counts. `deviations` are added to the log
    ratios of an effect of batches. The unshrunk effects are means over the cells `mean_of` alone.
    Returns the counts, and where they can be told: a uniform in double precision says nothing of
    the far upper tail.
    """
    adata = model.adata if adata is None else adata
    counts = np.asarray(adata.X.todense()).astype(int)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    source = parameters(model, None)
    target = mixed([parameters(model, b) for b in targets])
    keep = low_detection(counts, batch, targets, estimate_on)
    keep[:, list(genes_kept)] = True
    shift = {"scale": np.log(target["scale"]) - np.log(source["scale"])}
    if source["logits"] is not None:
        shift["logits"] = target["logits"] - source["logits"]
    if effect != "cell":
        grouped = labels if effect == "label" else None
        if kappas is None:
            shift = {
                k: group_mean(v, batch, grouped, targets, condition, estimate_on & mean_of)
                for k, v in shift.items()
            }
        else:
            shift = {
                k: shrunk_mean(v, counts, batch, grouped, targets, kappas) for k, v in shift.items()
            }
    if deviations is not None:
        shift["scale"] = shift["scale"] + np.where((batch == targets[0])[:, None], 0, deviations)
    shift = {k: np.where(keep, 0, v) for k, v in shift.items()}
    if residual is not None:
        shift["scale"] = shift["scale"] + np.where(keep, 0, residual(counts, source, shift))
    if samples is not None:
        present = 1.0 if source["logits"] is None else scipy.special.expit(-source["logits"])
        factors = sample_factors(counts, source["mean"] * present, samples)
        source["mean"] = source["mean"] * factors
    mean = source["mean"] * np.exp(shift["scale"])
    mean *= (depth * (source["mean"].sum(1) / mean.sum(1) if renormalise else 1.0))[:, None]
    pi = pi_target = 0.0
    if source["logits"] is not None:
        pi = scipy.special.expit(source["logits"])
        pi_target = scipy.special.expit(source["logits"] + shift["logits"])
    theta_target = None
    if source["theta"] is not None:
        theta_target = np.where(keep, source["theta"], target["theta"])
    _, v = uniforms(adata.obs_names, adata.var_names, seed)
    before, after = _law(source["mean"], source["theta"]), _law(mean, theta_target)
    u = np.where(
        counts == 0,
        v * (pi + (1 - pi) * before.pmf(0)),
        pi + (1 - pi) * (before.cdf(counts - 1) + v * before.pmf(counts)),
    )
    conditional = np.clip((u - pi_target) / (1 - pi_target), 0, 1)
    zero = u <= pi_target + (1 - pi_target) * after.pmf(0)
    # SciPy 1.11 returns wrong quantiles of a Poisson below 1e-160.
    comparable = (u > 1e-150) & (zero | (conditional < 1 - 1e-9))
    told = np.where(zero | ~comparable, 0.5, conditional)
    corrected = np.where(zero, 0, after.ppf(told)).astype(int)
    corrected[:, list(genes_kept)] = counts[:, list(genes_kept)]
    return corrected, comparable


def _law(mean, theta):
    if theta is None:
        return scipy.stats.poisson(mean)
    return scipy.stats.nbinom(theta, theta / (theta + mean))
