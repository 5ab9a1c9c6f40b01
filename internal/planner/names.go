package planner

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"strings"
)

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// OverlayName returns the name of the ClusterOverlay of a directory:
// <fleet>-<slug>-<8 hex of sha256(path)>, at most 63 characters, so that it can be
// a label value. The slug is the last element of the path, as far as it fits.
func OverlayName(fleet, overlayPath string) string {
	sum := sha256.Sum256([]byte(overlayPath))
	hash := hex.EncodeToString(sum[:4])
	slug := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(path.Base(overlayPath)), "-"), "-")
	if room := 63 - len(fleet) - len(hash) - 2; len(slug) > room {
		slug = strings.TrimRight(slug[:max(room, 0)], "-")
	}
	if slug == "" {
		return fleet + "-" + hash
	}
	return fleet + "-" + slug + "-" + hash
}
