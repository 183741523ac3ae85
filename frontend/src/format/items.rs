//! Files, models, blocks and bodies: what stands on lines of its own.

use super::comments::Comments;
use super::flat::list;
use super::{WIDTH, wrap};
use crate::ast::*;
use moec_ir::Span;

/// Something that begins a line.
enum Item<'a> {
    Model(&'a ModelDecl),
    Target(&'a TargetDecl),
    Member(&'a Member),
    Let(&'a Let),
    Results(&'a [Expr]),
    Line(String, Span),
}

/// Lines that are aligned with their neighbours of the same kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Set apart by blank lines.
    Tall,
    Declaration,
    Definition,
    Plain,
}

impl Item<'_> {
    fn span(&self) -> Span {
        match self {
            Self::Model(m) => m.span,
            Self::Target(t) => t.span,
            Self::Member(m) => member_span(m),
            Self::Let(l) => l.span,
            Self::Results(r) => r.iter().map(|e| e.span).reduce(Span::to).unwrap_or_default(),
            Self::Line(_, span) => *span,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Model(_) | Self::Target(_) => Kind::Tall,
            Self::Member(Member::Param(_) | Member::Cache(_) | Member::Use(_)) => Kind::Declaration,
            Self::Member(Member::Let(_)) | Self::Let(_) => Kind::Definition,
            Self::Member(Member::Dims(..)) | Self::Results(_) | Self::Line(..) => Kind::Plain,
            Self::Member(_) => Kind::Tall,
        }
    }

    /// Widths of the parts before `:`/`=` and between `:` and `=`.
    fn columns(&self) -> (usize, usize) {
        match self {
            Self::Member(m) => match declaration(m) {
                Some((head, ty, _)) => (head.chars().count(), ty.chars().count()),
                None => match m {
                    Member::Let(b) => (b.name.text.len(), 0),
                    _ => (0, 0),
                },
            },
            Self::Let(l) => (list(&l.names).len(), 0),
            _ => (0, 0),
        }
    }
}

fn member_span(member: &Member) -> Span {
    match member {
        Member::Dims(_, span) => *span,
        Member::Let(b) => b.span,
        Member::Param(p) => p.span,
        Member::Cache(c) => c.span,
        Member::Use(u) => u.span,
        Member::Block(b) => b.span,
        Member::Function(f) => f.span,
        Member::Precision(p) => p.span,
        Member::Parallel(p) => p.span,
        Member::Train(t) => t.span,
    }
}

/// `param w:`, `[n, k]` and `"tensor"` of a declaration that is aligned in columns.
fn declaration(member: &Member) -> Option<(String, String, Option<String>)> {
    match member {
        Member::Param(p) => {
            let word = if p.is_state { "state" } else { "param" };
            Some((format!("{word} {}:", p.name), p.shape.to_string(), Some(p.tensor.to_string())))
        }
        Member::Cache(c) => Some((format!("cache {}:", c.name), c.shape.to_string(), None)),
        Member::Use(u) => {
            let mut ty = u.block.to_string();
            if !u.sizes.is_empty() {
                ty += &format!("({})", list(&u.sizes));
            }
            if let Some(r) = &u.range {
                ty += &format!(" for {} in {}..{}", r.variable, r.first, r.end);
            }
            Some((format!("use {}:", u.name), ty, Some(u.prefix.to_string())))
        }
        _ => None,
    }
}

/// Writes lines and keeps track of where in the source it is.
pub(super) struct Printer<'a> {
    source: &'a str,
    comments: Comments<'a>,
    out: String,
    indent: usize,
    /// End in the source of what was written last.
    done: usize,
    /// Whether something was written in this pair of braces.
    begun: bool,
}

impl<'a> Printer<'a> {
    /// A printer that has written nothing.
    pub(super) fn new(source: &'a str, comments: Comments<'a>) -> Self {
        Self { source, comments, out: String::new(), indent: 0, done: 0, begun: false }
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// The whole file.
    pub(super) fn file(&mut self, ast: &Ast) {
        let mut items: Vec<Item<'_>> = ast.models.iter().map(Item::Model).collect();
        items.extend(ast.targets.iter().map(Item::Target));
        items.sort_by_key(|i| i.span().start);
        self.items(&items, usize::MAX);
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(&" ".repeat(self.indent));
        self.out.push_str(text);
        self.out.push('\n');
        self.begun = true;
    }

    /// Whether the source has an empty line between what was written last and a place.
    fn blank_before(&self, place: usize) -> bool {
        let between = self.source.get(self.done..place).unwrap_or("");
        between.bytes().filter(|&b| b == b'\n').count() > 1
    }

    /// The comments that begin before a place, each on a line of its own.
    fn comments_before(&mut self, place: usize) {
        while let Some(comment) = self.comments.take_before(place) {
            let (text, span) = (comment.text, comment.span);
            let head = self.source.get(self.done..span.start).unwrap_or("");
            if self.begun && head.bytes().filter(|&b| b == b'\n').count() > 1 {
                self.out.push('\n');
            }
            self.line(text);
            self.done = self.done.max(span.end);
        }
    }

    /// The comments within something that is written on one line, each on a line before it.
    fn comments_within(&mut self, place: usize) {
        while let Some(comment) = self.comments.take_before(place) {
            let (text, span) = (comment.text, comment.span);
            self.line(text);
            self.done = self.done.max(span.end);
        }
    }

    /// Writes items one after the other, then the comments up to `end`.
    fn items(&mut self, items: &[Item<'_>], end: usize) {
        let mut previous: Option<(Kind, usize)> = None;
        let mut widths = (0, 0);
        for (i, item) in items.iter().enumerate() {
            let (span, kind) = (item.span(), item.kind());
            let apart = previous.is_some_and(|(p, _)| p == Kind::Tall || kind == Kind::Tall);
            let blank = self.begun && (apart || self.blank_before(self.first_of(span)));
            if previous.is_none_or(|(p, _)| p != kind) || self.breaks_group(span) {
                widths = self.group_widths(&items[i..]);
            }
            if blank {
                self.out.push('\n');
                self.done = self.done.max(self.first_of(span));
            }
            self.comments_before(span.start);
            // A tall item has bodies of its own for the comments inside it.
            if kind != Kind::Tall {
                self.comments_within(span.end);
            }
            if kind != Kind::Tall || !blank {
                self.done = self.done.max(span.start);
            }
            self.item(item, widths);
            self.done = self.done.max(span.end);
            let next = items.get(i + 1).map_or(end, |n| n.span().start);
            self.comment_behind(span.end, next);
            previous = Some((kind, span.end));
        }
        self.comments_before(end);
    }

    /// Where an item or the first comment before it begins.
    fn first_of(&self, span: Span) -> usize {
        let mut first = span.start;
        let head = self.source.get(self.done..span.start).unwrap_or("");
        if let Some(at) = head.find("//") {
            first = self.done + at;
        }
        first
    }

    fn breaks_group(&self, span: Span) -> bool {
        self.blank_before(span.start) || self.comments.any_within(self.done, span.end)
    }

    /// The columns of the group of aligned items that begins here.
    fn group_widths(&self, items: &[Item<'_>]) -> (usize, usize) {
        let mut widths = (0, 0);
        let mut before: Option<&Item<'_>> = None;
        for item in items {
            if let Some(last) = before {
                let (from, to) = (last.span().end, item.span());
                let behind = self.comments.behind(self.source, from);
                let from = behind.filter(|c| c.span.start < to.start).map_or(from, |c| c.span.end);
                let gap = self.source.get(from..to.start).unwrap_or("");
                if last.kind() != item.kind()
                    || gap.bytes().filter(|&b| b == b'\n').count() > 1
                    || self.comments.any_within(from, to.end)
                {
                    break;
                }
            }
            let (head, ty) = item.columns();
            widths = (widths.0.max(head), widths.1.max(ty));
            before = Some(item);
        }
        widths
    }

    /// A comment behind an item stays behind it.
    fn comment_behind(&mut self, end: usize, next: usize) {
        let Some(comment) = self.comments.behind(self.source, end) else { return };
        let (text, span) = (comment.text, comment.span);
        if span.start >= next {
            return;
        }
        // Only where it was not written already, within the item.
        if self.comments.take_before(span.start + 1).is_some() {
            self.out.truncate(self.out.trim_end().len());
            self.out.push_str(&format!("  {text}\n"));
            self.done = self.done.max(span.end);
        }
    }

    fn item(&mut self, item: &Item<'_>, widths: (usize, usize)) {
        match item {
            Item::Model(m) => {
                let items: Vec<_> = m.members.iter().map(Item::Member).collect();
                self.braces(&format!("model {}", m.name), &items, m.name.span.end, m.span);
            }
            Item::Target(t) => {
                let lines: Vec<_> =
                    t.lines.iter().map(|l| Item::Line(l.to_string(), l.span)).collect();
                self.braces(&format!("target {}", t.name), &lines, t.name.span.end, t.span);
            }
            Item::Member(m) => self.member(m, widths),
            Item::Let(l) => {
                let text = wrap::definition(l, widths.0, self.indent);
                self.line(&text);
            }
            Item::Results(r) => {
                let text = wrap::results(r, self.indent);
                self.line(&text);
            }
            Item::Line(text, _) => self.line(text),
        }
    }

    /// `head { items }`
    fn braces(&mut self, head: &str, items: &[Item<'_>], head_end: usize, span: Span) {
        self.comments_within(head_end);
        if items.is_empty() && !self.comments.any_within(head_end, span.end) {
            return self.line(&format!("{head} {{}}"));
        }
        self.line(&format!("{head} {{"));
        self.indent += 2;
        self.begun = false;
        self.done = self.done.max(head_end);
        self.items(items, span.end);
        self.indent -= 2;
        self.line("}");
    }

    fn member(&mut self, member: &Member, widths: (usize, usize)) {
        if let Some((head, ty, tensor)) = declaration(member) {
            let (head_width, ty_width) = widths;
            let text = match tensor {
                Some(tensor) => format!("{head:head_width$} {ty:ty_width$} = {tensor}"),
                None => format!("{head:head_width$} {ty}"),
            };
            return self.line(&text);
        }
        let lines = |items: &[(String, Span)]| -> Vec<Item<'static>> {
            items.iter().map(|(t, s)| Item::Line(t.clone(), *s)).collect()
        };
        match member {
            Member::Dims(dims, _) => self.dims(dims),
            Member::Let(b) => {
                let head = format!("let {:width$} = ", b.name.text, width = widths.0);
                let text = wrap::expr(&b.value, self.indent, self.indent + head.len());
                self.line(&(head + &text));
            }
            Member::Block(b) => {
                let mut head = format!("block {}", b.name);
                if !b.sizes.is_empty() {
                    head += &format!("({})", list(&b.sizes));
                }
                let items: Vec<_> = b.members.iter().map(Item::Member).collect();
                let head_end = b.sizes.last().map_or(b.name.span.end, |s| s.span.end);
                self.braces(&head, &items, head_end, b.span);
            }
            Member::Function(f) => self.function(f),
            Member::Precision(p) => {
                let items: Vec<_> = p.settings.iter().map(|s| (s.to_string(), s.span)).collect();
                self.braces("precision", &lines(&items), p.span.start + 1, p.span);
            }
            Member::Parallel(p) => {
                let items: Vec<_> = p.items.iter().map(|i| (i.to_string(), i.span())).collect();
                let (head, head_end) = match &p.phase {
                    Some(phase) => (format!("parallel {phase}"), phase.span.end),
                    None => ("parallel".into(), p.span.start + 1),
                };
                self.braces(&head, &lines(&items), head_end, p.span);
            }
            Member::Train(t) => {
                let items: Vec<_> =
                    t.items.iter().map(|i| train_line(i, self.indent + 2)).collect();
                self.braces("train", &lines(&items), t.span.start + 1, t.span);
            }
            Member::Param(_) | Member::Cache(_) | Member::Use(_) => {}
        }
    }

    /// `dim a = 1, b = 2`, filled up to the width.
    fn dims(&mut self, dims: &[Binding]) {
        let mut line = String::from("dim ");
        for (i, dim) in dims.iter().enumerate() {
            let text = dim.to_string();
            if i > 0 && self.indent + line.len() + text.len() + 1 > WIDTH {
                self.line(line.trim_end());
                line = "    ".into();
            }
            line += &text;
            if i + 1 < dims.len() {
                line += ", ";
            }
        }
        self.line(&line);
    }

    fn function(&mut self, f: &FunctionDecl) {
        let word = if f.kind == FunctionKind::Entry { "entry" } else { "fn" };
        let name = f.name.as_ref().map_or("", |n| n.text.as_str());
        let mut head = format!("{word} {name}({}) -> {}", list(&f.inputs), list(&f.results));
        if self.indent + head.len() + 2 > WIDTH && !f.inputs.is_empty() {
            let pad = " ".repeat(self.indent + 2);
            let inputs: Vec<String> = f.inputs.iter().map(|i| format!("\n{pad}{i}")).collect();
            let close = " ".repeat(self.indent);
            head = format!("{word} {name}({}\n{close}) -> {}", inputs.join(","), list(&f.results));
        }
        let mut items: Vec<_> = f.body.lets.iter().map(Item::Let).collect();
        items.push(Item::Results(&f.body.results));
        self.braces(&head, &items, f.body.span.start, f.span);
    }
}

fn train_line(item: &TrainItem, indent: usize) -> (String, Span) {
    let (head, b) = match item {
        TrainItem::Directive(b) => (format!("{} ", b.name), b),
        TrainItem::Update(b) => (format!("{} += ", b.name), b),
    };
    (format!("{head}{}", wrap::expr(&b.value, indent, indent + head.len())), b.span)
}
