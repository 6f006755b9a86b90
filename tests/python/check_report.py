#!/usr/bin/env python3
"""Check a report page against the database it was made from.

    check_report.py REPORT.html RESULTS.db [--empty] [--hostile] [--figures N] [--max-bytes N]
        [--chosen 'LABEL ...'] [--apart N]

Well-formed and inert (elements and attributes of a closed list, no script, no style
attribute, nothing fetched), the style hash is right, ids and links fit, every figure has
a title, n, a data table and SQL, and the SQL gives exactly the table. Every configuration
has a row in the ranking and is drawn once, with the chosen or in a small chart; only the
chosen have a colour; the oracle stands behind every small chart; the points of curves are
what the blobs hold. Prints what is wrong, one line each; exit 0 = nothing.
"""
import argparse
import base64
import hashlib
import html.parser
import re
import sqlite3
import struct

VOID = {"meta", "link", "wbr", "br"}
ELEMENTS = {
    "a", "abbr", "article", "b", "body", "caption", "code", "dd", "defs", "desc", "details", "div", "dl", "dt", "figure", "h1", "h2", "h3", "h4", "head",
    "header", "html", "li", "link", "main", "mark", "meta", "nav", "ol", "p", "pre", "section", "span", "style", "summary", "svg", "table", "tbody", "td", "text",
    "th", "thead", "title", "tr", "ul", "wbr", "circle", "path", "pattern", "rect"}
ATTRIBUTES = {
    "aria-hidden", "aria-label", "aria-labelledby", "charset", "class", "content", "cx", "cy", "d", "height", "href", "http-equiv", "id", "lang", "name",
    "patternunits", "preserveaspectratio", "r", "rel", "role", "scope", "tabindex", "title", "transform", "viewbox", "width", "x", "y"}
FORBIDDEN = r"\b(guaranteed?|safe(ly)?|always|never|lossless|optimal|fragile|fragility|significant(ly)?)\b"
SECTIONS = ["verdict", "validity", "curves", "heatmap", "timeline", "postmortem", "decomposition", "ladder", "appendix"]


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.wrong, self.stack, self.ids, self.links, self.labels = [], [], [], [], []
        self.count, self.text, self.style, self.csp, self.sections = {}, [], "", "", []
        self.figures = []                       # {id, title, under, rows, sql}
        self.figure = None
        self.ranked, self.drawn = {}, {}        # id -> text of the row; id -> figure and element
        self.panel, self.chart = None, None     # id of the small chart, of the chart of the chosen
        self.backed, self.coloured = set(), {}  # small charts with an oracle; chosen -> classes of the line
        self.row = None
        self.feed(text)
        self.close()
        if self.stack:
            self.wrong.append("not closed: %s" % self.stack)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ELEMENTS:
            self.wrong.append("element <%s>" % tag)
        if len(a) != len(attrs):
            self.wrong.append("attribute given twice in <%s>" % tag)
        for name, value in attrs:
            if name not in ATTRIBUTES:
                self.wrong.append("attribute %s in <%s>" % (name, tag))
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)
            if name == "aria-labelledby":
                self.labels += value.split()
            if value is None or re.search(r"nan|inf", value) and name in ("d", "x", "y", "width", "height", "cx", "cy"):
                self.wrong.append("%s=%r in <%s>" % (name, value, tag))
        if a.get("http-equiv") == "Content-Security-Policy":
            self.csp = a["content"]
        if tag == "svg" and a.get("aria-hidden") != "true" and (a.get("role") != "img" or "aria-labelledby" not in a):
            self.wrong.append("<svg> without role and name")
        if tag == "th" and a.get("scope") not in ("row", "col"):
            self.wrong.append("<th> without scope")
        if tag == "section":
            self.sections.append(a.get("id"))
        if tag == "figure":
            self.figure = {"id": a.get("id"), "finding": "", "under": "", "rows": None, "sql": ""}
            self.figures.append(self.figure)
        self.see_drawn(tag, a)
        if self.figure and tag == "table" and a.get("class") == "data":
            self.figure["rows"] = []
        if self.figure and tag == "tr" and self.figure["rows"] is not None:
            self.figure["rows"].append([])
        if self.figure and tag in ("td", "th") and self.inside("table", "data"):
            self.figure["rows"][-1].append("")
        if tag not in VOID:
            self.stack.append((tag, a.get("class") or ""))

    def see_drawn(self, tag, a):
        """Who has a row in the ranking, who is drawn where, and in what colour."""
        name, css = a.get("id") or "", (a.get("class") or "").split()
        colour = [c for c in css if re.fullmatch(r"s\d", c)]
        if tag == "tr":
            self.row = name if name.startswith("rank") else None
            if self.row:
                self.ranked[self.row] = ""
        if name.startswith("drawn"):
            if name in self.drawn:
                self.wrong.append("%s is drawn twice" % name)
            self.drawn[name] = (self.figure["id"] if self.figure else None, tag)
            self.panel = name if tag == "div" else None
            self.chart = name if tag == "li" else None
        elif tag in ("li", "figure"):
            self.panel = self.chart = None
        if self.panel and "unavoidable" in css:
            self.backed.add(self.panel)
        if self.panel and colour:
            self.wrong.append("%s is a small chart in colour" % self.panel)
        if self.chart and colour and tag == "path" and "line" in css:
            self.coloured[self.chart] = tuple(c for c in css if c not in ("line", "eye"))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack[-1][0] != tag:
            self.wrong.append("</%s> closes %s at %s" % (tag, self.stack[-1:], self.getpos()))
            return
        self.stack.pop()
        if tag == "figure":
            self.figure = None

    def handle_comment(self, data):
        self.wrong.append("a comment: %.40r" % data)

    def inside(self, tag, css=None):
        return any(t == tag and (css is None or css in c.split()) for t, c in self.stack)

    def handle_data(self, data):
        if self.inside("style"):
            self.style += data
            return
        self.text.append(data)
        if self.row and self.inside("th"):
            self.ranked[self.row] += data
        f = self.figure
        if not f:
            return
        if self.inside("p", "finding"):
            f["finding"] += data
        if self.inside("p", "under"):
            f["under"] += data
        if self.inside("pre", "sql"):
            f["sql"] += data
        elif self.inside("table", "data") and (self.inside("td") or self.inside("th")):
            f["rows"][-1][-1] += data


def as_text(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 2 ** 53 else "%r" % value
    if isinstance(value, bytes):
        return "%d bytes" % len(value)
    return str(value)


def same(shown, expected):
    """Equal as text, or the same number; text with control characters is shown escaped."""
    if shown == expected:
        return True
    try:
        return float(shown) == float(expected)
    except ValueError:
        return bool(re.search(r"[^ -~\u00a1-\u00ac\u00ae-\u02ff]", expected)) and shown[:3] == expected[:3]


def check_figure(f, db, wrong):
    def bad(what):
        wrong.append("%s: %s" % (f["id"], what))
    if not re.match(r"Figure \d+\. \S.{20,}", f["finding"]):
        bad("no finding: %r" % f["finding"])
    if not re.search(r"n\u00a0=\u00a0\d+\u00a0cluster", f["under"]):
        bad("no n")
    if not re.search(r"Not shown: \S+", f["under"]):
        bad("does not say what it does not show")
    if not f["rows"] or not f["sql"]:
        bad("no data or no SQL")
        return
    cur = db.execute(f["sql"])
    names = [d[0] for d in cur.description]
    expected = [[as_text(v) for v in row] for row in cur.fetchall()]
    head, rows = f["rows"][0], f["rows"][1:]
    if head != names:
        bad("columns %s, SQL gives %s" % (head, names))
    if len(rows) != min(len(expected), 1000):
        bad("%d rows, SQL gives %d" % (len(rows), len(expected)))
    for i, (row, want) in enumerate(zip(rows, expected)):
        if len(row) != len(want) or not all(same(a, b) for a, b in zip(row, want)):
            bad("row %d is %s, SQL gives %s" % (i, row, want))
            break


SCOPES = ("SELECT v.model_id, v.split FROM v_cell v JOIN result_cell rc USING(cell_id) WHERE v.status = 'done'"
          " GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2")
CONFIGS = ("SELECT DISTINCT config_id, policy_label, policy, role FROM v_policy_summary WHERE model_id = ? AND split = ?")
MOST_CHOSEN = 8


def check_budgets(p, db, scope, suffix):
    """The rows of the figure of all budgets against the blobs. Returns the configurations that have a curve."""
    want = {}
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'result_curve'").fetchone()[0]:
        return want
    for config, seed, n_prompt, n, kept, data in db.execute(
            "SELECT config_id, seed, n_prompt, n_point, kept, data FROM result_curve JOIN curve_grid USING(grid_id) JOIN trace t USING(trace_id)"
            " WHERE level = 'model' AND t.model_id = ? AND t.split = ? AND EXISTS (SELECT 1 FROM v_cell v WHERE v.config_id = result_curve.config_id"
            " AND v.model_id = t.model_id AND v.split = t.split AND v.status = 'done')", scope):
        words, kept = struct.unpack("<%dI" % (4 * n), data), struct.unpack("<%dI" % n, kept)
        for i in range(n):
            want.setdefault((config, n, i), []).append([kept[i] / n_prompt] + [words[m * n + i] / 2 ** 31 for m in range(4)])
    figure = [f for f in p.figures if f["id"] == "fig-budgets" + suffix]
    if len(figure) != (1 if want else 0):
        p.wrong.append("%d figures of all budgets for %d points" % (len(figure), len(want)))
    elif want:
        rows, have = [r for r in db.execute(figure[0]["sql"]) if r[1] is None], {}
        for r in rows:
            have.setdefault((r[10], r[9]), []).append(r[2:7])
        for (config, n, i), parts in want.items():
            x = [sum(v) / len(parts) for v in zip(*parts)][:4] + [max(v[4] for v in parts)]
            y = have.get((config, n), [])
            if len(y) != n or max(abs(a - b) for a, b in zip(x, y[i])) > 6e-5:
                p.wrong.append("point %d of the curve of configuration %d is %s, its blobs say %s" % (i, config, y[i:i + 1], x))
        if len(rows) != len(want):
            p.wrong.append("%d points of curves, the blobs have %d" % (len(rows), len(want)))
    return {config for config, _, _ in want}


def check_ranking(p, db, hostile):
    """Everybody in the ranking, everybody but the full cache drawn once. Returns the labels of the chosen, and how many are apart."""
    wrong, chosen, n_apart = p.wrong, [], 0
    for i, scope in enumerate(db.execute(SCOPES).fetchall()):
        suffix = "-%d" % (i + 1) if i else ""
        configs, lines = db.execute(CONFIGS, scope).fetchall(), []
        has_oracle = any(c[2] == "oracle_step" for c in configs)
        curves = check_budgets(p, db, scope, suffix)
        for config, label, policy, role in configs:
            rank, drawn = "rank%s-%d" % (suffix, config), "drawn%s-%d" % (suffix, config)
            if rank not in p.ranked:
                wrong.append("%s is not in the ranking" % label)
            elif not hostile and not p.ranked[rank].strip().startswith(label):
                wrong.append("the row of %s says %r" % (label, p.ranked[rank]))
            figure, tag = p.drawn.get(drawn, (None, None))
            expected = None if policy == "full" else "fig-overlay" if tag == "li" else "fig-budgets" if config in curves else "fig-curves"
            if (figure or "").removesuffix(suffix) != (expected or ""):
                wrong.append("%s is drawn in %s" % (label, figure))
            if tag == "div" and role == "oracle":
                wrong.append("%s has a chart of its own" % label)
            if tag == "div" and has_oracle and drawn not in p.backed:
                wrong.append("no oracle behind %s" % label)
            n_apart += tag == "div"
            if drawn in p.coloured:
                chosen.append(label)
                lines.append(p.coloured[drawn])
        if len(set(lines)) != len(lines) or len(lines) > MOST_CHOSEN:
            wrong.append("lines cannot be told apart: %s" % lines)
    known = {"drawn%s-%d" % ("-%d" % (i + 1) if i else "", c[0])
             for i, scope in enumerate(db.execute(SCOPES).fetchall()) for c in db.execute(CONFIGS, scope)}
    for name in sorted(set(p.drawn) - known):
        wrong.append("%s is no configuration" % name)
    return chosen, n_apart


def check(text, db, empty, hostile):
    p = Page(text)
    wrong = p.wrong
    if not text.startswith("<!doctype html>\n") or not text.endswith("</html>\n"):
        wrong.append("is not a whole page")
    style = re.findall(r"<style>(.*?)</style>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode() if len(style) == 1 else "no style"
    if p.csp != "default-src 'none'; style-src 'sha256-%s'; img-src data:; base-uri 'none'; form-action 'none'" % digest:
        wrong.append("CSP: %s; the style has %s" % (p.csp, digest))
    if not hostile and re.search(r"https?://", text):
        wrong.append("an address: %s" % re.search(r"https?://\S+", text).group())
    for name in {i for i in p.ids if p.ids.count(i) > 1}:
        wrong.append("id %s is not unique" % name)
    for link in p.links:
        if link != "data:," and (link[0] != "#" or link[1:] not in p.ids):
            wrong.append("link %s leads nowhere" % link)
    for name in set(p.labels) - set(p.ids):
        wrong.append("aria-labelledby %s leads nowhere" % name)
    if p.sections != SECTIONS:
        wrong.append("sections %s" % p.sections)
    if p.count.get("caption", 0) != p.count.get("table", 0):
        wrong.append("%d tables, %d captions" % (p.count.get("table", 0), p.count.get("caption", 0)))
    shown = "".join(p.text)
    if "Open-loop replay on full-cache trajectories: evictions do not feed back into later queries." not in shown:
        wrong.append("does not say that the replay is open loop")
    if not re.search(r"Not shown: [^\n]+\.\s*$", shown):
        wrong.append("does not end with what is not shown")
    for m in re.finditer(FORBIDDEN, shown, re.I):
        wrong.append("forbidden word: %s" % shown[max(0, m.start() - 30):m.end() + 10])
    for c in shown:
        if c != "\n" and (ord(c) < 32 or 0x7f <= ord(c) < 0xa0 or c in "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2028\u2029\ufeff"):
            wrong.append("U+%04X reaches the page" % ord(c))
            break
    if empty:
        n = len(re.findall(r'class="empty"', text))
        if n < len(SECTIONS) or p.figures:
            wrong.append("%d empty sections, %d figures" % (n, len(p.figures)))
    else:
        if not p.figures:
            wrong.append("no figure")
        for f in p.figures:
            check_figure(f, db, wrong)
        p.chosen, p.n_apart = check_ranking(p, db, hostile)
    return wrong, p


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("html")
    a.add_argument("db")
    a.add_argument("--empty", action="store_true")
    a.add_argument("--hostile", action="store_true")
    a.add_argument("--figures", type=int, help="how many there must be")
    a.add_argument("--max-bytes", type=int, help="how large it may be")
    a.add_argument("--chosen", help="labels of those in colour, separated by blanks")
    a.add_argument("--apart", type=int, help="how many small charts there must be")
    args = a.parse_args()
    with open(args.html, "rb") as f:
        text = f.read().decode("utf-8")                 # strict: the page is UTF-8 whatever the tokens are
    wrong, page = check(text, sqlite3.connect("file:%s?mode=ro" % args.db, uri=True), args.empty, args.hostile)
    if args.figures is not None and len(page.figures) != args.figures:
        wrong.append("%d figures, expected %d" % (len(page.figures), args.figures))
    if args.max_bytes is not None and len(text.encode()) > args.max_bytes:
        wrong.append("%d bytes, more than %d" % (len(text.encode()), args.max_bytes))
    if args.chosen is not None and sorted(page.chosen) != sorted(args.chosen.split()):
        wrong.append("in colour: %s" % page.chosen)
    if args.apart is not None and page.n_apart != args.apart:
        wrong.append("%d small charts, expected %d" % (page.n_apart, args.apart))
    for w in wrong[:20]:
        print("%s: %s" % (args.html, w))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
