"""The estimator in plain NumPy loops, in float64: slow, obvious, and what the tests compare with."""

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
    """Multiply every row with every head's matrix: n,f × f,c,d → n,c,d."""
    n, (_, n_heads, key_dim) = len(X), projection.shape
    heads = np.zeros((n, n_heads, key_dim))
    for i in range(n):
        for c in range(n_heads):
            for u in range(key_dim):
                heads[i, c, u] = np.sum(np.float64(X[i]) * np.float64(projection[:, c, u]))
    return heads


def distances(heads, keys):
    """Squared Euclidean distance of each head to each of its keys (n, c, j)."""
    out = np.zeros((len(heads), keys.shape[0], keys.shape[1]))
    for i in range(len(heads)):
        for c in range(keys.shape[0]):
            for j in range(keys.shape[1]):
                out[i, c, j] = np.sum((np.float64(heads[i, c]) - np.float64(keys[c, j])) ** 2)
    return out


def nearest(heads, keys, n_selected, usable=None):
    """Positions of the nearest keys (n, c, m): by distance, then by position; −1 where usable keys run out."""
    away = distances(heads, keys)
    codes = np.full((*away.shape[:2], n_selected), -1)
    for i in range(away.shape[0]):
        for c in range(away.shape[1]):
            allowed = [j for j in range(away.shape[2]) if usable is None or usable[c, j]]
            ranked = sorted(allowed, key=lambda j: (away[i, c, j], j))[:n_selected]
            codes[i, c, : len(ranked)] = ranked
    return codes


def pool(codes, values):
    """Mean over heads of the mean over selected keys (n, k); a code of −1 is nothing."""
    logits = np.zeros((len(codes), values.shape[2]))
    for i in range(len(codes)):
        for c in range(codes.shape[1]):
            rows = [np.float64(values[c, j]) for j in codes[i, c] if j >= 0]
            logits[i] += np.mean(rows, axis=0) / codes.shape[1]
    return logits


def counts(shape, codes, labels, weights):
    """Add each sample's weight to the class of its label at each selected key (c, j, k)."""
    table = np.zeros(shape)
    for i in range(len(codes)):
        for c in range(codes.shape[1]):
            for j in codes[i, c]:
                table[c, j, labels[i]] += weights[i]
    return table


def counts_to_values(table, class_counts, smoothing):
    """Log of each class's share among a key's hits, pulled towards the class prior."""
    n_classes = table.shape[2]
    prior = [(count + 1 / n_classes) / (sum(class_counts) + 1) for count in class_counts]
    values = np.zeros(table.shape)
    for c in range(table.shape[0]):
        for j in range(table.shape[1]):
            total = sum(table[c, j])
            for k in range(n_classes):
                values[c, j, k] = np.log((table[c, j, k] + smoothing * prior[k]) / (total + smoothing))
    return values


def selection_matrix(codes, n_keys):
    """The 0/1 matrix of selected keys (n, c·j)."""
    matrix = np.zeros((len(codes), codes.shape[1] * n_keys))
    for i in range(len(codes)):
        for c in range(codes.shape[1]):
            for j in codes[i, c]:
                matrix[i, c * n_keys + j] = 1
    return matrix


def _normal_equations(codes, labels, weights, shape, alpha):
    A, W = selection_matrix(codes, shape[1]), np.diag(weights)
    Y = np.eye(shape[2])[labels]
    prior = (weights @ Y) / weights.sum()
    hits = A.T @ weights
    penalty = alpha * hits[hits > 0].mean()
    return A.T @ W @ A + penalty * np.eye(A.shape[1]), A.T @ W @ (Y - prior), prior


def ridge_converged(codes, labels, weights, shape, alpha):
    """Values of the ridge regression, solved exactly."""
    left, right, prior = _normal_equations(codes, labels, weights, shape, alpha)
    return (shape[0] * codes.shape[2] * np.linalg.solve(left, right) + prior).reshape(shape)


def ridge_stepped(codes, labels, weights, shape, alpha, n_steps):
    """Values after some Jacobi-preconditioned conjugate gradient steps from zero, one class after another.

    Directions are kept conjugate to the constant vector of the keys that some sample selects.
    """
    left, right, prior = _normal_equations(codes, labels, weights, shape, alpha)
    solution = np.zeros(right.shape)
    used = (left != 0).sum(axis=0) > 1
    flat = left.sum(axis=0) * used / left.sum(axis=0)[used].sum()
    for k in range(shape[2]):
        x, r = np.zeros(len(left)), right[:, k].copy()
        z = r / np.diag(left)
        z = z - used * (flat @ z)
        p = z.copy()
        for _ in range(n_steps):
            step = (r @ z) / (p @ left @ p)
            x = x + step * p
            r_new = r - step * (left @ p)
            z_new = r_new / np.diag(left)
            z_new = z_new - used * (flat @ z_new)
            p = z_new + (r_new @ z_new) / (r @ z) * p
            r, z = r_new, z_new
        solution[:, k] = x
    return (shape[0] * codes.shape[2] * solution + prior).reshape(shape)


def softmax(logits):
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def sgd_gradient(values, codes, labels, weights, batch_size, label_smoothing):
    """Gradient (c, j, k) of the weighted, smoothed cross-entropy over batch_size samples; every column is a class."""
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
    """Values after one step of plain gradient descent with the gradient's norm clipped."""
    gradient = sgd_gradient(values, codes, labels, weights, batch_size, label_smoothing)
    norm = np.sqrt((gradient**2).sum())
    return values - learning_rate * gradient * (min(1.0, clip_norm / norm) if norm > 0 else 1.0)


def ema_step(batch, keys, size, total, decay=0.95, epsilon=1e-5):
    """Keys, running sizes and running sums after one batch of exponential moving averages."""
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
