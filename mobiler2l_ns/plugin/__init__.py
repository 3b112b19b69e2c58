"""What nerfstudio finds: the methods of ns-train and the commands of ns-export."""
