/* In place of libraries that pkgdown takes from the network: what its own script calls of them.
   The contents of a page are listed; a header that hides, a button that copies and the search,
   which the libraries are for, are not there. */
(function ($) {
  $.fn.headroom = function () { return this; };
  $.fn.autocomplete = function () { return this; };
  window.ClipboardJS = { isSupported: function () { return false; } };
  window.Mark = function () { this.mark = function () {}; };

  function entry(heading) {
    return $("<a>").addClass("nav-link").attr("href", "#" + heading.id).text($(heading).text());
  }

  window.Toc = {
    init: function (options) {
      options.$scope.filter("h2[id]").each(function () {
        options.$nav.append(entry(this));
      });
    }
  };
})(window.jQuery);
