"""Reports: one HTML file about a run or a study, readable without a network.

    run_report   a run -> `Page`           study/page   a study -> `Page`
    blocks       what a page holds         charts       series -> SVG (matplotlib)
    html         `Page` -> text (jinja2)   page.html    the template: layout, colors

matplotlib and jinja2 are imported late: `pip install 'mtlcore[report]'`.
"""
