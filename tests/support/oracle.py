"""The estimator in plain NumPy loops, in float64: slow and obvious. The tests compare with it."""

import numpy as np


def normalize(X):
    """Divide each row by its length; a zero row stays zero."""
    out = np.zeros(X.shape, dtype=np.float64)
    for i, row in enumerate(np.asarray(X, dtype=np.float64)):
        length = np.sqrt(sum(value * value for value in row))
        if length > 0:
            out[i] = row / length
    return out


def project(X, projection):
    """Multiply every row by every head's matrix: n,f × f,c,d → n,c,d."""
    n, (_, n_heads, key_dim) = len(X), projection.shape
    heads = np.zeros((n, n_heads, key_dim))
    for i in range(n):
        for c in range(n_heads):
            for u in range(key_dim):
                heads[i, c, u] = np.sum(np.float64(X[i]) * np.float64(projection[:, c, u]))
    return heads


def distances(heads, keys):
    """Return the squared Euclidean distance of each head to each of its keys (n, c, j)."""
    out = np.zeros((len(heads), keys.shape[0], keys.shape[1]))
    for i in range(len(heads)):
        for c in range(keys.shape[0]):
            out[i, c] = np.sum((np.float64(heads[i, c]) - np.float64(keys[c])) ** 2, axis=1)
    return out


def nearest(heads, keys, n_selected, usable=None):
    """Return the positions of the nearest keys (n, c, m), by distance, then by position; −1 if keys run out."""
    away = distances(heads, keys)
    codes = np.full((*away.shape[:2], n_selected), -1)
    for i in range(away.shape[0]):
        for c in range(away.shape[1]):
            allowed = [j for j in range(away.shape[2]) if usable is None or usable[c, j]]
            ranked = sorted(allowed, key=lambda j: (away[i, c, j], j))[:n_selected]
            codes[i, c, : len(ranked)] = ranked
    return codes


def pool(codes, values):
    """Return the mean over heads of the mean over selected keys (n, k); codes of −1 are left out."""
    logits = np.zeros((len(codes), values.shape[2]))
    for i in range(len(codes)):
        for c in range(codes.shape[1]):
            rows = [np.float64(values[c, j]) for j in codes[i, c] if j >= 0]
            logits[i] += np.mean(rows, axis=0) / codes.shape[1]
    return logits


def counts(shape, codes, labels, weights):
    """Add each sample's weight to the class of its label at each selected key; return the counts (c, j, k)."""
    table = np.zeros(shape)
    for i in range(len(codes)):
        for c in range(codes.shape[1]):
            for j in codes[i, c]:
                table[c, j, labels[i]] += weights[i]
    return table


def class_ratios(table, keys):
    """Return how much more often a class selects a key than all classes do (c, j, k), with normal classes in each head.

    The covariance within classes is shrunk towards a multiple of the identity, as if by d + 1 more samples.
    """
    ratios = np.ones(table.shape)
    for c in range(len(table)):
        here, d = np.float64(keys[c]), keys.shape[2]
        per_class, samples = table[c].sum(axis=0), table[c].sum(axis=1)
        known = np.flatnonzero(per_class)
        means = {k: np.average(here, axis=0, weights=table[c, :, k]) for k in known}
        scatter = sum(
            table[c, j, k] * np.outer(here[j] - means[k], here[j] - means[k]) for k in known for j in range(len(here))
        )
        total = np.cov(here.T, aweights=samples, ddof=0).reshape(d, d)
        second = np.average((here**2).sum(axis=1), weights=samples)
        spread = np.trace(total) / d if np.trace(total) > 1e-12 * second else 1.0  # a smaller value is a rounding error
        free = max(per_class.sum() - len(known), 0)
        within = (free * scatter / per_class.sum() + (d + 1) * spread * np.eye(d)) / (free + d + 1)
        shares = per_class[known] / per_class.sum()
        for j in range(len(here)):
            gaps = np.array([here[j] - means[k] for k in known])
            densities = -0.5 * np.einsum("kd,kd->k", gaps, np.linalg.solve(within, gaps.T).T)
            relative = np.exp(densities - densities.max())
            ratios[c, j] = relative.min() / (shares @ relative)  # for classes without samples
            ratios[c, j, known] = relative / (shares @ relative)
    return ratios


def counts_to_values(table, class_counts, n_selected, smoothing, ratios=None):
    """Return the log-likelihood of each key plus the log share of the class over √c; zero for keys without hits.

    Each class has ``smoothing`` more hits in a head, distributed over keys like the hits of all classes, times ratios.
    """
    n_heads, n_keys, n_classes = table.shape
    total, values = sum(class_counts), np.zeros(table.shape)
    for c in range(n_heads):
        for j in range(n_keys):
            share = sum(table[c, j]) / (total * n_selected)
            for k in range(n_classes if share else 0):
                known = class_counts[k] or total
                expected = smoothing * share * (1 if ratios is None else ratios[c, j, k])
                likely = (table[c, j, k] + expected) / (known * n_selected + smoothing)
                part = class_counts[k] or min(n for n in class_counts if n) / (1 + total)
                part /= total
                values[c, j, k] = np.log(likely) + np.log(part) / np.sqrt(n_heads)
    return values


def features(codes, table):
    """Return the features of rows (n, w): the rounded mean of the functions of their keys in each head."""
    n_heads, _, functions = table.shape
    rows = np.zeros((len(codes), n_heads, functions))
    for i in range(len(codes)):
        for c in range(n_heads):
            rows[i, c] = np.round(np.mean([np.float64(table[c, j]) for j in codes[i, c]], axis=0))
    return rows.reshape(len(codes), -1)


def sharing(keys, used, reaches, most):
    """Return the share of each key in the counts of the others (c, j, j): by distance, among the nearest used keys."""
    kernel = np.zeros((*used.shape, used.shape[1]))
    for c, j in np.argwhere(used):
        squares = np.square(np.float64(keys[c]) - keys[c, j]).sum(axis=1)
        for i in np.argsort(np.where(used[c], squares, np.inf), kind="stable")[:most]:
            if used[c, i]:
                kernel[c, j, i] = np.exp(-squares[i] / (0.04 * reaches[c] ** 2))
    given = kernel.sum(axis=1, keepdims=True)
    return kernel / np.where(given > 0, given, 1)


def class_shares(weights):
    """Return the share of each class; a class without rows counts as one row in a million."""
    return np.where(weights > 0, weights, weights.sum() / 1e6) / weights.sum()


def ridge(rows, labels, weights, n_classes, penalty):
    """Return weights (w, k) and bias (k,) of the regression on one-hot labels, by least squares."""
    mean = weights @ rows / weights.sum()
    targets = np.eye(n_classes)[labels]
    shares = weights @ targets / weights.sum()
    centred, root = rows - mean, np.sqrt(weights)[:, None]
    strength = np.sqrt(penalty * (weights @ centred**2).sum())
    left = np.concatenate([root * centred, strength * np.eye(rows.shape[1])])
    right = np.concatenate([root * (targets - shares), np.zeros((rows.shape[1], n_classes))])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found, shares - mean @ found


def discriminant(rows, labels, weights, n_classes, penalty):
    """Return weights (w, k) and bias (k,) for normal classes with one covariance, by its inverse.

    A class without rows scores a million times below the least likely one at the mean of all rows.
    """
    mean, per_class = weights @ rows / weights.sum(), np.bincount(labels, weights, minlength=n_classes)
    means, scatter = np.tile(mean, (n_classes, 1)), np.zeros((rows.shape[1],) * 2)
    for k in range(n_classes):
        own = labels == k
        if own.any():
            means[k] = weights[own] @ rows[own] / per_class[k]
            scatter += (rows[own] - means[k]).T @ (weights[own, None] * (rows[own] - means[k]))
    unit = (weights @ (rows - mean) ** 2).sum()
    inverse = np.linalg.inv((scatter + penalty * unit * np.eye(len(scatter))) / weights.sum())
    found = inverse @ (means - mean).T
    bias = np.log(class_shares(per_class)) - np.sum((means - mean).T * found, axis=0) / 2
    bias[per_class == 0] = bias[per_class > 0].min() - np.log(1e6)
    return found, bias - mean @ found


def scales(rows, steps, weights, curvature, n_heads):
    """Return the factors of features: curves get ``curvature²`` times the spread of coordinates."""
    spread = weights @ (rows - weights @ rows / weights.sum()) ** 2 * steps**2
    linear, curved = spread.reshape(n_heads, 2, -1).sum(axis=(0, 2))
    bent = curvature / np.sqrt(curved) if curved > 0 else 0.0
    return steps * np.tile(np.repeat([1 / np.sqrt(linear), bent], len(steps) // n_heads // 2), n_heads)


def joint_values(table, steps, samples, n_classes, mixture):
    """Return the values (c, j, k) of a mixture of solutions for codes, labels and weights."""
    codes, labels, weights = samples
    rows, n_heads = features(codes, table), len(table)
    total, bias = np.zeros((len(steps), n_classes)), np.zeros(n_classes)
    for part in mixture:
        scale = scales(rows, steps, weights, part["curvature"], n_heads)
        solve = {"ridge": ridge, "discriminant": discriminant}[part["objective"]]
        found, shift = solve(rows * scale, labels, weights, n_classes, part["penalty"])
        total, bias = total + part["share"] * scale[:, None] * found, bias + part["share"] * shift
    if not mixture:  # all rows are equal
        bias = np.log(class_shares(np.bincount(labels, weights, minlength=n_classes)))
    own = total.reshape(n_heads, -1, n_classes)
    return bias + n_heads * np.einsum("cjf,cfk->cjk", np.float64(table), own)


def softmax(logits):
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def sgd_gradient(values, codes, labels, weights, batch_size, label_smoothing):
    """Return the gradient (c, j, k) of the weighted, smoothed cross-entropy over batch_size samples."""
    gradient = np.zeros(values.shape)
    share = softmax(pool(codes, values))
    n_classes = values.shape[2]
    for i in range(len(codes)):
        target = np.full(n_classes, label_smoothing / n_classes)
        target[labels[i]] += 1 - label_smoothing
        for c in range(codes.shape[1]):
            for j in codes[i, c]:
                part = weights[i] / (batch_size * codes.shape[1] * codes.shape[2])
                gradient[c, j] += part * (share[i] - target)
    return gradient


def sgd_step(values, codes, labels, weights, *, learning_rate, batch_size, label_smoothing, clip_norm):
    """Return the values after one step of plain gradient descent with the gradient's norm clipped."""
    gradient = sgd_gradient(values, codes, labels, weights, batch_size, label_smoothing)
    norm = np.sqrt((gradient**2).sum())
    return values - learning_rate * gradient * (min(1.0, clip_norm / norm) if norm > 0 else 1.0)


def ema_step(batch, keys, size, total, decay=0.95, epsilon=1e-5):
    """Return keys, running sizes and running sums after one batch of exponential moving averages."""
    n_heads, n_keys, _ = keys.shape
    codes = nearest(batch, keys, 1)
    keys, size, total = np.float64(keys).copy(), size.copy(), total.copy()
    for c in range(n_heads):
        for j in range(n_keys):
            members = [batch[i, c] for i in range(len(batch)) if codes[i, c, 0] == j]
            size[c, j] = decay * size[c, j] + (1 - decay) * len(members)
            total[c, j] = decay * total[c, j] + (1 - decay) * np.sum(members, axis=0, initial=0.0)
        everything = size[c].sum()
        for j in range(n_keys):
            keys[c, j] = total[c, j] / ((size[c, j] + epsilon) / (everything + n_keys * epsilon) * everything)
    return keys, size, total
