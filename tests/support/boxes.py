"""What boxes have in common, one pair at a time."""


def naive_iou(a, b, *, clamp=True):
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    overlap = max(0.0, width) * max(0.0, height) if clamp else width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0
