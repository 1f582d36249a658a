package settle

// SetPaused says whether all triggers of the function are paused, or which.
func (s *Service) SetPaused(_ bool, _ []string) {}
