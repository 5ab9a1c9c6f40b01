package ipam

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
)

// Span is the addresses from From to To, both included.
type Span struct{ From, To netip.Addr }

func (s Span) String() string { return s.From.String() + "-" + s.To.String() }

// Set is a set of addresses: spans in their order, of which none touches another.
type Set []Span

// ParseSet reads single addresses, ranges (a-b) and CIDRs.
func ParseSet(addresses []string) (Set, error) {
	var all Set
	for _, address := range addresses {
		span, err := ParseSpan(address)
		if err != nil {
			return nil, err
		}
		all = append(all, span)
	}
	return all.normal(), nil
}

// ParseSpan reads a single address, a range (a-b) or a CIDR. A CIDR may have host bits.
func ParseSpan(s string) (Span, error) {
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err := netip.ParseAddr(from)
		if err != nil {
			return Span{}, fmt.Errorf("address range %q: %w", s, err)
		}
		b, err := netip.ParseAddr(to)
		if err != nil {
			return Span{}, fmt.Errorf("address range %q: %w", s, err)
		}
		if a.BitLen() != b.BitLen() || b.Less(a) {
			return Span{}, fmt.Errorf("address range %q does not end after its start", s)
		}
		return Span{a, b}, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Span{}, fmt.Errorf("network %q: %w", s, err)
		}
		return prefixSpan(p), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return Span{}, fmt.Errorf("address %q: %w", s, err)
	}
	return Span{a, a}, nil
}

func prefixSpan(p netip.Prefix) Span {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	to, _ := netip.AddrFromSlice(last)
	return Span{p.Masked().Addr(), to}
}

// normal sorts s and joins spans that overlap or touch.
func (s Set) normal() Set {
	slices.SortFunc(s, func(a, b Span) int { return a.From.Compare(b.From) })
	var out Set
	for _, span := range s {
		if n := len(out); n > 0 && out[n-1].To.BitLen() == span.From.BitLen() &&
			(!out[n-1].To.Less(span.From) || out[n-1].To.Next() == span.From) {
			if out[n-1].To.Less(span.To) {
				out[n-1].To = span.To
			}
			continue
		}
		out = append(out, span)
	}
	return out
}

// Contains tells whether a is in s.
func (s Set) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(s, func(span Span) bool { return !a.Less(span.From) && !span.To.Less(a) })
}

// Minus returns s without what is in other.
func (s Set) Minus(other Set) Set {
	out := slices.Clone(s)
	for _, cut := range other {
		var rest Set
		for _, span := range out {
			if span.From.BitLen() != cut.From.BitLen() || cut.To.Less(span.From) || span.To.Less(cut.From) {
				rest = append(rest, span)
				continue
			}
			if span.From.Less(cut.From) {
				rest = append(rest, Span{span.From, cut.From.Prev()})
			}
			if cut.To.Less(span.To) {
				rest = append(rest, Span{cut.To.Next(), span.To})
			}
		}
		out = rest
	}
	return out
}

// Len is the number of addresses, math.MaxInt if there are more.
func (s Set) Len() int {
	n := new(big.Int)
	for _, span := range s {
		n.Add(n, new(big.Int).SetBytes(span.To.AsSlice()))
		n.Sub(n, new(big.Int).SetBytes(span.From.AsSlice()))
		n.Add(n, big.NewInt(1))
	}
	if !n.IsInt64() {
		return math.MaxInt
	}
	return int(n.Int64())
}

// First returns the lowest address of s, if there is one.
func (s Set) First() (netip.Addr, bool) {
	if len(s) == 0 {
		return netip.Addr{}, false
	}
	return s[0].From, true
}
