"use strict";
(function () {
  // Phones get the legend above the plot instead of names at the ends of the lines.
  var NARROW_PX = 460;
  var CONFIG = {
    displaylogo: false,
    displayModeBar: false,
    responsive: true,
    showLink: false,
    plotlyServerURL: "",
  };
  var plots = Array.prototype.slice.call(document.querySelectorAll(".plot"));

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Figures are drawn for light paper in these two inks; a dark screen swaps them.
  function repaint(value, from, to) {
    if (Array.isArray(value)) return value.map(function (v) { return repaint(v, from, to); });
    if (value !== null && typeof value === "object") {
      var copy = {};
      Object.keys(value).forEach(function (key) { copy[key] = repaint(value[key], from, to); });
      return copy;
    }
    return value === from ? to : value;
  }

  function draw(div, width) {
    var source = JSON.parse(document.getElementById(div.id + "-data").textContent);
    var figure = repaint(repaint(source, div.dataset.ink, colour("--plot-ink")), div.dataset.paper, colour("--paper"));
    var layout = figure.layout;
    var narrow = (width || div.clientWidth) < NARROW_PX;
    layout.hoverlabel.bgcolor = colour("--card");
    layout.hoverlabel.bordercolor = colour("--line");
    layout.hoverlabel.font.color = colour("--ink");
    layout.annotations = (layout.annotations || []).filter(function (a) {
      return !(narrow && a.name === "end label");
    });
    if (narrow) {
      var named = (source.layout.annotations || []).some(function (a) { return a.name === "end label"; });
      layout.margin.r = Math.min(layout.margin.r, 16);
      layout.margin.l = Math.min(layout.margin.l, 58);
      if (named) {
        layout.showlegend = true;
        layout.yaxis.title.text = "";  // the heading above says it
        layout.margin.t += 26;
      }
    }
    if (width) { layout.width = width; } else { delete layout.width; }
    return Plotly.react(div, figure.data, layout, CONFIG);
  }

  function drawAll(width) { plots.forEach(function (div) { draw(div, width); }); }

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { drawAll(); });
  var wasNarrow = innerWidth < 500;
  addEventListener("resize", function () {
    if ((innerWidth < 500) !== wasNarrow) { wasNarrow = !wasNarrow; drawAll(); }
  });
  addEventListener("beforeprint", function () { drawAll(680); });
  addEventListener("afterprint", function () { drawAll(); });
})();
