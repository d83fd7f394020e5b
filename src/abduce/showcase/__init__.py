"""What people look at: pictures, reports, the demonstration and the gallery."""
