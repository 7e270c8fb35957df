"""A sweep's report as one HTML file: records -> analysis -> view.

The records are `infra.tracking_sweeps`'. `trials`, `factors`, `rates`, `separable`, `explained` and `compute` are pure
functions of them, `curves` and `figures` draw inline SVG, and `page` puts it all into `templates/report.html`.
"""
